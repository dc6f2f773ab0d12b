#!/usr/bin/env python3
"""The Hub's memory as PSS: at rest, with 5,000 users, under load and after it.

The users are written into the database at once. The load is wrk on the login page, the home
page and an admin's list of everybody; it is repeated, because what grows with each round is a leak.
"""
from __future__ import annotations

import subprocess
import sys
import time

from common import Client, Wrk, arguments, descendants, pss_mb, show, sign_in
from incumbent import Incumbent
from ours import Ours

FILL = """\
import sys
from appliance.config import load_settings
from appliance.store import users
from appliance.store.database import Database
settings = load_settings([])
db = Database(settings.db_url)
def fill(t):
    for number in range(int(sys.argv[1])):
        users.add(t, f"pupil{number:05}", admin=False, actor="bench")
db.run(fill)
db.close()
"""


def rest(hub: Ours | Incumbent) -> float:
    """Return the Hub's memory after it had a while for itself. Its proxy is a process of its own and not counted."""
    time.sleep(10)
    return pss_mb([hub.hub_pid])


def main() -> None:
    parser = arguments(__doc__, pairs=None)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of load (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="of load on each page (default: %(default)s)")
    parser.add_argument("--incumbent", action="store_true", help="JupyterHub's at rest beside it")
    args = parser.parse_args()
    with Ours() as hub:
        show("Hub at rest", [rest(hub)], "MB", digits=1, target="≤ 90")
        subprocess.run([sys.executable, "-c", FILL, str(args.users)], cwd=hub.folder, check=True,
                       env={"PYTHONPATH": str(hub.folder / "program")})
        (name, password), = hub.students(1)
        student, teacher = Client(hub.url), Client(hub.url)
        sign_in(student, name, password)
        sign_in(teacher, "admin", hub.admin_password)
        show(f"  with {args.users} users", [rest(hub)], "MB", digits=1, target="≤ 90")
        pages = [("/hub/login", None), ("/hub/home", student), ("/hub/admin", teacher)]
        after = []
        for _ in range(args.rounds):
            for page, client in pages:
                headers = {"Cookie": client.cookie_header(page)} if client else {}
                load = Wrk(f"{hub.url}{page}", args.seconds, headers=headers).result()
                if not after:
                    show(f"  {page}, 8 connections", [load.per_second], "per s", digits=0)
                    if load.failed:
                        print(f"  {load.failed} of {load.requests} failed")
            after.append(rest(hub))
        show("  after each round of load", after, "MB", digits=1, target="≤ 90, flat")
        print(f"    first to last: {', '.join(f'{mb:.1f}' for mb in after)}")
        show("  Traefik beside it", [pss_mb([hub.proxy_pid])], "MB", digits=1)
    if args.incumbent:
        with Incumbent() as incumbent:
            show("JupyterHub at rest", [rest(incumbent)], "MB", digits=1)
            show("  its proxy", [pss_mb(descendants(incumbent.hub_pid))], "MB", digits=1)


if __name__ == "__main__":
    main()
