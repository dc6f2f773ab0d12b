"""Starts the servers of everybody in a group and waits until they are ready: python3 start_group.py GROUP"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

API, TOKEN = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]


def ask(method, path):
    request = urllib.request.Request(f"{API}/{path}", method=method, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = answer.read()
    return json.loads(body) if body else None


def server_of(name):
    return ask("GET", f"users/{urllib.parse.quote(name)}")["servers"].get("")


def main(group):
    members = ask("GET", f"groups/{urllib.parse.quote(group)}").get("users")
    if members is None:      # an answer has what the token may see, and nothing else
        sys.exit("This token needs the scope read:groups to see who is in the group.")
    for name in members:
        if server_of(name) is None:
            ask("POST", f"users/{urllib.parse.quote(name)}/server")
    waiting, end = set(members), time.monotonic() + 120
    while waiting and time.monotonic() < end:
        waiting -= {name for name in waiting if (server := server_of(name)) and server["ready"]}
        time.sleep(0.5 if waiting else 0)
    print(f"{len(members) - len(waiting)} of {len(members)} servers are ready.")
    return 1 if waiting else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['message']}")
