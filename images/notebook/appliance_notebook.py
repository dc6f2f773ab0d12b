"""What the image adds to Jupyter's own server: precompressed static files, and an owner known by the edge's token."""
import os

from jupyter_server.auth import IdentityProvider, User
from jupyter_server.base.handlers import FileFindHandler


class PrecompressedFiles(FileFindHandler):
    """Static files, in the best encoding that the browser takes and the image holds (FILE.br, FILE.gz beside FILE).

    Compressed once, when the image is built: a class that opens Lab in the same minute costs no CPU for it.
    """

    content_encoding = None

    def validate_absolute_path(self, root, absolute_path):
        path = super().validate_absolute_path(root, absolute_path)
        accepted = {part.partition(";")[0].strip() for part in self.request.headers.get("Accept-Encoding", "").split(",")}
        for encoding, suffix in (("br", ".br"), ("gzip", ".gz")):
            # A range is one of the plain file's bytes.
            if path and encoding in accepted and "Range" not in self.request.headers and os.path.exists(path + suffix):
                self.content_encoding = encoding
                return path + suffix
        return path

    def get_content_type(self):
        compressed = self.absolute_path
        if self.content_encoding:
            self.absolute_path = compressed.rpartition(".")[0]
        try:
            return super().get_content_type()
        finally:
            self.absolute_path = compressed

    def set_headers(self):
        super().set_headers()
        self.set_header("Vary", "Accept-Encoding")
        if self.content_encoding:
            self.set_header("Content-Encoding", self.content_encoding)


class Owner(IdentityProvider):
    """The server's owner, known by nothing but the token that the edge adds to each request.

    Jupyter would also set a login cookie, which opens the server without that token: this one neither sets nor reads it.
    """

    login_available = logout_available = False

    def generate_anonymous_user(self, handler):
        name = os.environ.get("JUPYTERHUB_USER", "user")
        return User(username=name, name=name, display_name=name, initials=name[:2].upper())

    def get_user_cookie(self, handler):
        return None

    def set_login_cookie(self, handler, user):
        pass
