"""Says who has a server that is ready, whatever the number of users."""

import json
import os
import urllib.request

API, TOKEN = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]


def pages(url):
    while url:
        request = urllib.request.Request(url, headers={
            "Authorization": f"token {TOKEN}", "Accept": "application/jupyterhub-pagination+json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            page = json.load(answer)
        yield from page["items"]
        url = (page["_pagination"]["next"] or {}).get("url")


for user in pages(f"{API}/users?state=ready&limit=100"):
    names = ", ".join(name or "the default one" for name in user["servers"])
    print(f"{user['name']}: {names}, last active {user['last_activity']}")
