import os

c = get_config()  # noqa: F821

# Who is in which course is a matter of the Hub's groups, nbgrader-COURSE and formgrade-COURSE.
c.Authenticator.plugin_class = "nbgrader.auth.JupyterHubAuthPlugin"
c.Exchange.root = "/srv/nbgrader/exchange"
c.Exchange.path_includes_course = True
# Each student has a uid of their own, which no other container has a name for.
c.ExchangeCollect.check_owner = False

# The formgrader of a course is the service of the same name; the course is a folder of its home.
if course := os.environ.get("JUPYTERHUB_SERVICE_NAME"):
    c.CourseDirectory.course_id = course
    c.CourseDirectory.root = folder = os.path.join(os.environ["HOME"], course)
    os.makedirs(folder, exist_ok=True)
