c = get_config()  # noqa: F821

c.JupyterHub.authenticator_class = "school_server.SchoolAuthenticator"
c.SchoolAuthenticator.url = "https://login.school.example/check"
c.SchoolAuthenticator.allow_all = True
