from appliance_notebook import PrecompressedFiles

c = get_config()  # noqa: F821

# Lab shows the formgrader in a frame; without this, jupyterhub-singleuser says that no page may do that.
c.ServerApp.tornado_settings = {
    "static_handler_class": PrecompressedFiles,
    "headers": {"Content-Security-Policy": "frame-ancestors 'self'"},
}
