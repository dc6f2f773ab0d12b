"""What the image adds to Jupyter's own server: precompressed static files, and an owner known by the edge's token."""
import mimetypes
import os

from jupyter_server.auth import IdentityProvider, User
from jupyter_server.base.handlers import FileFindHandler, JupyterHandler
from tornado.web import RequestHandler


class PrecompressedFiles(FileFindHandler):
    """Static files, in the best encoding that the browser takes and the image holds (FILE.br, FILE.gz beside FILE).

    Compressed once, when the image is built: a class that opens Lab in the same minute costs no CPU for it.
    """

    content_encoding = None

    def get(self, path, include_body=True):
        headers = self.request.headers
        # A range counts the plain file's bytes.
        wanted = "" if "Range" in headers else headers.get("Accept-Encoding", "")
        accepted = {part.partition(";")[0].strip() for part in wanted.split(",")}
        self.plain_path = path
        for encoding, suffix in (("br", ".br"), ("gzip", ".gz")):
            if encoding in accepted and self.get_absolute_path(self.root, path + suffix):
                self.content_encoding = encoding
                path += suffix
                break
        return super().get(path, include_body)

    def get_content_type(self):
        if not self.content_encoding:
            return super().get_content_type()
        return mimetypes.guess_type(self.plain_path)[0] or "application/octet-stream"

    def set_headers(self):
        super().set_headers()
        self.set_header("Vary", "Accept-Encoding")
        if self.content_encoding:
            self.set_header("Content-Encoding", self.content_encoding)


class LogOut(RequestHandler):
    """Signing out is the Hub's: it ends the session, and with it the right to come here."""

    def get(self):
        self.redirect(os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/logout")


# Jupyter's pages, those of errors too, would hold the token for their scripts; the edge adds it, so no page needs it.
_namespace = JupyterHandler.template_namespace
JupyterHandler.template_namespace = property(lambda handler: _namespace.fget(handler) | {"token": ""})


class Owner(IdentityProvider):
    """The server's owner, known by nothing but the token that the edge adds to each request.

    Jupyter would also set a login cookie, which opens the server without that token: this one neither sets nor reads it.
    """

    login_available = logout_available = False   # but Lab's own File > Log Out leads to /logout below this server

    def get_handlers(self):
        return [(r"/logout", LogOut)]

    def generate_anonymous_user(self, handler):
        name = os.environ.get("JUPYTERHUB_USER", "user")
        return User(username=name, name=name, display_name=name, initials=name[:2].upper())

    def get_user_cookie(self, handler):
        return None

    def set_login_cookie(self, handler, user):
        pass
