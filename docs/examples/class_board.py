"""A board for the class, at /services/board/: whoever may open it reads it, and writes on it in their own name."""

import html
import json
import os
import secrets
import urllib.parse
import urllib.request
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# all that the Hub tells a service
API, TOKEN = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]
PREFIX, CLIENT = os.environ["JUPYTERHUB_SERVICE_PREFIX"], os.environ["JUPYTERHUB_CLIENT_ID"]
CALLBACK = os.environ["JUPYTERHUB_OAUTH_CALLBACK_URL"]
AUTHORIZE = os.environ["JUPYTERHUB_BASE_URL"] + "hub/api/oauth2/authorize"
LISTEN = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])

visitors = {}     # session → name: until this program ends
notes = []


def ask_hub(path, token, form=None):
    data = urllib.parse.urlencode(form).encode() if form else None
    request = urllib.request.Request(API + path, data, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


class Board(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == CALLBACK:
            return self.let_in(dict(urllib.parse.parse_qsl(query)))
        if path != PREFIX:
            return self.say(404, "There is nothing here.")
        name = visitors.get(self.cookie("board-session"))
        if name is None:
            return self.to_hub()
        listed = "".join(f"<li>{html.escape(who)}: {html.escape(text)}</li>" for who, text in notes)
        self.say(200, f"<p>Hello {html.escape(name)}.</p><ul>{listed}</ul>"
                      '<form method="post"><label>Note <input name="text"></label><button>Write</button></form>')

    def do_POST(self):
        name = visitors.get(self.cookie("board-session"))
        if name is None or self.path != PREFIX:
            return self.say(403, "Open the board first.")
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 10_000)).decode(errors="replace")
        notes.append((name, dict(urllib.parse.parse_qsl(body)).get("text", "")))
        self.go(PREFIX)

    def to_hub(self):
        """The Hub knows who it is, and sends them back with a code."""
        state = secrets.token_urlsafe()
        self.go(f"{AUTHORIZE}?" + urllib.parse.urlencode({
            "client_id": CLIENT, "redirect_uri": CALLBACK, "response_type": "code", "state": state}), "board-state", state)

    def let_in(self, query):
        if not query.get("state") or query["state"] != self.cookie("board-state"):
            return self.say(403, "Somebody else sent you here. Open the board again.")
        try:
            token = ask_hub("/oauth2/token", TOKEN, {
                "client_id": CLIENT, "client_secret": TOKEN, "grant_type": "authorization_code",
                "code": query.get("code", ""), "redirect_uri": CALLBACK})["access_token"]
            name = ask_hub("/user", token)["name"]
        except OSError as error:
            return self.say(502, f"The Hub did not say who you are: {html.escape(str(error))}")
        session = secrets.token_urlsafe()
        visitors[session] = name
        print(f"{name} came", flush=True)      # this is in the Hub's log
        self.go(PREFIX, "board-session", session)

    def cookie(self, name):
        found = SimpleCookie(self.headers.get("Cookie", "")).get(name)
        return found.value if found else ""

    def go(self, where, cookie="", value=""):
        self.send_response(302)
        self.send_header("Location", where)
        if cookie:
            self.send_header("Set-Cookie", f"{cookie}={value}; Path={PREFIX}; HttpOnly; SameSite=Lax")
        self.end_headers()

    def say(self, status, text):
        body = f"<!doctype html><title>Board</title>{text}".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


ThreadingHTTPServer((LISTEN.hostname, LISTEN.port), Board).serve_forever()
