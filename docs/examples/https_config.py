c = get_config()  # noqa: F821

c.JupyterHub.port = 443
c.JupyterHub.ssl_key = "/etc/ssl/private/box.school.key"
c.JupyterHub.ssl_cert = "/etc/ssl/certs/box.school.pem"  # the certificate, then those that signed it
