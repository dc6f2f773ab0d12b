c = get_config()  # noqa: F821

IMAGE = "school/class:latest"
EXCHANGE = "/srv/nbgrader/exchange"
COURSES = ["math7", "art7"]

c.DockerSpawner.image = IMAGE
c.DockerSpawner.volumes = {EXCHANGE: "/srv/nbgrader/exchange"}

# One formgrader a course, as a service that the Hub runs in a container. It works in the home of an account of its own,
# which is made if there is none and which nobody can sign in to.
c.JupyterHub.services = [
    {
        "name": course,
        "user": f"grader-{course}",
        "container": {"image": IMAGE},
        "command": ["jupyterhub-singleuser"],
        "environment": {"JUPYTER_CONFIG_PATH": "/opt/formgrader"},
        "oauth_no_confirm": True,
    }
    for course in COURSES
]

c.JupyterHub.load_roles = [
    # What nbgrader in somebody's server asks the Hub: which groups they are in, and which courses have a formgrader.
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", "read:users:groups!user",
                                  "list:services", "read:services"]},
    {"name": "user", "scopes": ["self", "list:services", "read:services"]},
]
for course in COURSES:
    c.JupyterHub.load_roles += [
        # who grades
        {"name": f"formgrade-{course}", "groups": [f"formgrade-{course}"], "scopes": [f"access:services!service={course}"]},
        # what the formgrader may: keep the list of the course's students
        {"name": f"course-{course}", "services": [course], "scopes": [
            f"read:users:groups!user=grader-{course}", f"list:groups!group=nbgrader-{course}",
            f"groups!group=nbgrader-{course}"]},
    ]
