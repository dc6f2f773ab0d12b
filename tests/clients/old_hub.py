"""Fills a new database through an original JupyterHub's own classes; run with that JupyterHub's Python.

    python old_hub.py FILE      prints, as JSON, the token of bob's script
"""

import json
import sys

from jupyterhub import orm, roles


def main(path: str) -> None:
    session = orm.new_session_factory(f"sqlite:///{path}")()
    for role in roles.get_default_roles():
        roles.create_role(session, role)
    session.add(orm.OAuthClient(identifier="jupyterhub", secret="", redirect_uri="/hub/", description="JupyterHub"))
    people = {}
    for name, admin in (("ada", True), ("bob", False), ("carol", False), ("dora-é", False)):
        people[name] = orm.User(name=name, admin=admin)
        session.add(people[name])
    group = orm.Group(name="7b", properties={"room": 12})
    session.add(group)
    group.users.extend([people["bob"], people["carol"]])
    session.commit()
    for person in people.values():
        roles.assign_default_roles(session, person)
    default = orm.Spawner(user=people["ada"], name="")
    lab = orm.Spawner(user=people["ada"], name="lab", user_options={"image": "scipy"})
    if hasattr(orm.Spawner, "display_name"):
        lab.display_name = "The lab"
    session.add_all([default, lab])
    session.commit()
    orm.Share.grant(session, default, people["bob"])
    orm.Share.grant(session, lab, group, scopes=["access:servers!server=ada/lab", "read:servers!server=ada/lab"])
    orm.ShareCode.new(session, lab, scopes=["access:servers!server=ada/lab"])
    token = people["bob"].new_api_token(note="my script")
    narrow = people["bob"].new_api_token(note="reads", scopes=["read:users!user=bob"], expires_in=86400)
    people["ada"].new_api_token(note="Server at /user/ada/", scopes=["access:servers!server=ada/"])
    people["ada"].new_api_token(token="chosen-by-hand-long-enough", generated=False, note="by hand")
    session.commit()
    print(json.dumps({"token": token, "narrow": narrow}))


main(sys.argv[1])
