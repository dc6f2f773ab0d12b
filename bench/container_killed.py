#!/usr/bin/env python3
"""From `docker kill` of a student's container to a page that says why.

GET /user/NAME/lab is asked again and again as a browser would, redirects followed, until the answer is a page of the
Hub that holds the cause; a page that only says that the server does not answer is not the end of it.
"""
from __future__ import annotations

import re
import time

import docker
from common import Client, arguments, show, to_lab
from ours import Ours

CAUSE = re.compile(r"kill|ended|memory|crashed|stopped", re.IGNORECASE)
PATIENCE_S = 60


def seconds_to_cause(hub: Ours, name: str, password: str) -> tuple[float, str]:
    """Return the seconds, and the page's words."""
    client = Client(hub.url)
    to_lab(client, name, password)
    container = hub.container_of(name)
    docker.APIClient(version="auto").kill(container)
    began = time.perf_counter()
    words = ""
    while time.perf_counter() - began < PATIENCE_S:
        page = client.get(f"/user/{name}/lab")
        words = words_of(page.text)
        if page.headers.get("X-JupyterHub-Version") and CAUSE.search(words):
            return time.perf_counter() - began, words
        time.sleep(0.02)
    raise RuntimeError(f"no cause after {PATIENCE_S} s; the last page says: {words}")


def words_of(page: str) -> str:
    main = re.search(r"<main.*?</main>", page, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", main[0] if main else page).split())


def main() -> None:
    parser = arguments(__doc__, pairs=None)
    parser.add_argument("--times", type=int, default=7, help="containers to kill (default: %(default)s)")
    args = parser.parse_args()
    with Ours() as hub:
        (name, password), = hub.students(1)
        seen = [seconds_to_cause(hub, name, password) for _ in range(args.times)]
    show("docker kill to a page with the cause", [seconds for seconds, _ in seen], target="≤ 1")
    print(f"  it says: {seen[-1][1]}")


if __name__ == "__main__":
    main()
