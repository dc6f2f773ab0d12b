"""Says who has a server that is ready, whatever the number of users."""

import json
import os
import sys
import urllib.error
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


def main():
    for user in pages(f"{API}/users?state=ready&limit=100"):
        names = ", ".join(name or "the default one" for name in user.get("servers", {}))
        seen = user.get("last_activity")      # none yet, or not for this token to see
        print(f"{user['name']}: {names or 'a server'}" + (f", last active {seen}" if seen else ""))


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['message']}")
