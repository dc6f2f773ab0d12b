"""Sign in at ADDRESS as NAME with PASSWORD and go on, as a browser does, until JupyterLab is there. Runs inside the box."""

import http.cookiejar
import re
import sys
import time
import urllib.parse
import urllib.request

address, name, password = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
login = opener.open(f"{address}/hub/login").read().decode()
xsrf = re.search(r'name="_xsrf"[^>]*value="([^"]*)"', login)[1]
form = urllib.parse.urlencode({"username": name, "password": password, "_xsrf": xsrf}).encode()
answer = opener.open(f"{address}/hub/login?next=/hub/spawn", form)
deadline = time.monotonic() + 90
while "jupyter-config-data" not in (page := answer.read().decode(errors="replace")):
    if time.monotonic() > deadline:
        raise SystemExit(f"No JupyterLab within 90 s; the last page was {answer.url}:\n{page}")
    time.sleep(0.2)
    answer = opener.open(f"{address}/hub/spawn")
print("JupyterLab is there:", answer.url)
