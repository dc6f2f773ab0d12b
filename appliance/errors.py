"""Every error the appliance raises on purpose, as one tree.

    ApplianceError
    ├── BadInput            what was sent cannot be taken
    │   ├── BadName  BadNext  BadOption  BadScope
    │   ├── Exists          a name that is taken
    │   ├── TooManyServers  one more named server than a user may have
    │   ├── NotHere         of the configuration, so it can be changed only there
    │   └── BodyTooLarge
    ├── Refused             the visitor may not do this
    │   ├── NotSignedIn  LoginRefused  LoginThrottled  BadXsrf  ForeignOrigin  NotYours  NotAdmin
    │   ├── MissingScope    the token, or who is signed in, lacks the right
    │   ├── Archived        the account is put away
    │   └── MustChangePassword
    ├── NotFound            there is no such user, server, page
    ├── StartFailed         a server could not start or ended by itself
    │   ├── ImageMissing  ImageNotAllowed  ImageBroken
    │   ├── OutOfMemory  DiskFull  HomeFull  NoAddress  BoxFull
    │   ├── AppExited  AppNeverListened  AppAnswersErrors  AppGone  AddressChanged
    │   ├── StartTimeout  StopTimeout
    │   ├── HomesUnavailable
    │   └── SpawnError      the engine refused for a reason of its own
    ├── Unavailable         a part of the box does not answer
    │   ├── EngineDown  EngineUnsuitable  IsolationUnproven  ProxyDown  CertificateTrouble  DatabaseDown
    │   └── ServiceFailed   a service that the Hub runs, or that does not answer
    └── Misconfigured       the configuration or a file of the installation is not usable

Each class has a stable `code`, a `sentence` for the student and an `action` for the teacher or admin; an instance may
say both more precisely. `evidence` (log lines, the engine's words) is for admins only and never holds a secret.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Root of the tree. `str(error)` is the sentence."""

    code = "internal"
    sentence = "Something went wrong on the server. Your files are safe; please try again."
    action = "Look at the Hub's log."

    def __init__(self, sentence: str | None = None, *, action: str | None = None, evidence: str = "") -> None:
        self.sentence = sentence or type(self).sentence
        self.action = action or type(self).action
        self.evidence = evidence
        super().__init__(self.sentence)


# -- what was sent cannot be taken ------------------------------------------------------------------------------------
class BadInput(ApplianceError):
    code = "bad-input"
    sentence = "That could not be read. Please check it and try again."
    action = "Correct the input."


class BadName(BadInput):
    code = "bad-name"
    sentence = "That is not a name that can be used here."
    action = "Use letters, digits, '.', '_', '-' and '@', at most 64 characters, starting with a letter or digit."


class BadNext(BadInput):
    code = "bad-next"
    sentence = "That link leads away from this site, so it was not followed."
    action = "Use an address of this site that begins with one slash."


class BadOption(BadInput):
    code = "bad-option"
    sentence = "That option cannot be used."
    action = "Choose one of the options offered."


class TooManyServers(BadInput):
    code = "too-many-servers"
    sentence = "You have as many servers as you may have."
    action = "Delete one that is not needed any more."


class BadScope(BadInput):
    code = "bad-scope"
    sentence = "That is not a scope that can be given."
    action = "See the list of scopes at the end of the page /hub/api/docs."


class Exists(BadInput):
    code = "exists"
    sentence = "That name is already taken."
    action = "Choose another name."


class NotHere(BadInput):
    code = "not-here"
    sentence = "That is said in the configuration, so it cannot be changed here."
    action = "Change jupyterhub_config.py and restart the Hub."


class BodyTooLarge(BadInput):
    code = "body-too-large"
    sentence = "What was sent is larger than this page accepts."
    action = "Send less at once."


# -- the visitor may not do this --------------------------------------------------------------------------------------
class Refused(ApplianceError):
    code = "refused"
    sentence = "You may not do this."
    action = "Ask your teacher."


class NotSignedIn(Refused):
    code = "not-signed-in"
    sentence = "Please sign in first."
    action = "Sign in."


class LoginRefused(Refused):
    code = "login-refused"
    sentence = "That name and password do not fit together, or this account may not sign in here."
    action = "Check the spelling; a teacher can set a new password."


class LoginThrottled(Refused):
    """Too many failed logins; `retry_after_s` says when to try again."""

    code = "login-throttled"
    sentence = "Too many failed sign-ins. Please wait a moment and try again."
    action = "Wait, then try again; a teacher can set a new password."

    def __init__(self, retry_after_s: int = 30) -> None:
        super().__init__(f"Too many failed sign-ins. Please wait {retry_after_s} seconds and try again.")
        self.retry_after_s = retry_after_s


class BadXsrf(Refused):
    code = "bad-xsrf"
    sentence = "This page was open for too long, or the request came from somewhere else. Nothing was changed."
    action = "Reload the page and try again."


class ForeignOrigin(Refused):
    code = "foreign-origin"
    sentence = "Another site tried to do this in your name. Nothing was changed."
    action = "Use this site's own pages."


class NotYours(Refused):
    code = "not-yours"
    sentence = "That address belongs to somebody else's server."
    action = ("In a browser nobody opens another's server, also not with a share, and admins neither; a script gets in with a "
              "token of somebody it is shared with. Your own server is on your home page.")


class NotAdmin(Refused):
    code = "not-admin"
    sentence = "This page is for teachers and admins."
    action = "Sign in with an admin's account."


class MissingScope(Refused):
    code = "missing-scope"
    sentence = "What came with this request may not do that."
    action = "Use a token that has the scope, or ask an admin for a role with it."

    @classmethod
    def of(cls, *scopes: str) -> MissingScope:
        """One of these is needed."""
        return cls(f"This needs the scope {' or '.join(scopes)}, which is not held.")


class Archived(Refused):
    code = "archived"
    sentence = "This account is archived: its files are kept, but nobody can use it."
    action = "Bring it back with “appliance user unarchive NAME”."


class MustChangePassword(Refused):
    code = "must-change-password"
    sentence = "Please choose a password of your own first."
    action = "Choose a new password."


class NotFound(ApplianceError):
    code = "not-found"
    sentence = "There is nothing at this address."
    action = "Check the address, or start from your home page."


# -- a server could not start, or ended by itself ---------------------------------------------------------------------
class StartFailed(ApplianceError):
    code = "start-failed"
    sentence = "Your server could not be started. Your files are safe."
    action = "Try again; if it fails again, look at the server's log lines."


class ImageMissing(StartFailed):
    code = "image-missing"
    sentence = "The environment your server uses is not installed on this box. Your teacher can fix this."
    action = "Build or load the image, then start the server again."


class ImageNotAllowed(StartFailed):
    code = "image-not-allowed"
    sentence = "That environment may not be used here."
    action = "Choose an image of DockerSpawner.allowed_images, or add it there."


class ImageBroken(StartFailed):
    code = "image-broken"
    sentence = "The environment your server uses cannot run on this box. Your teacher can fix this."
    action = "The image's command does not exist or may not be run; check DockerSpawner.cmd and the image."


class OutOfMemory(StartFailed):
    code = "out-of-memory"
    sentence = "Your server used all the memory it may have and was ended. Your saved files are safe."
    action = "Raise Spawner.mem_limit, or use less data at once."


class DiskFull(StartFailed):
    code = "disk-full"
    sentence = "The disk of this box is full, so your server could not start. Your saved files are safe."
    action = "Free space on the box: old images, logs and archives first."


class HomeFull(StartFailed):
    code = "home-full"
    sentence = "Your home has reached its limit, and your server could not go on without writing to it. Nothing is lost."
    action = "Delete files in this student's home, or raise the limit (BtrfsHomes.quota)."


class NoAddress(StartFailed):
    code = "no-address"
    sentence = "There is no free network address for another server."
    action = "Choose a larger DockerSpawner.subnet, or delete servers nobody uses."


class BoxFull(StartFailed):
    code = "box-full"
    sentence = "All places on this box are taken right now. Please try again when somebody has finished."
    action = "Raise JupyterHub.active_server_limit, or stop servers nobody uses."


class AppExited(StartFailed):
    code = "app-exited"
    sentence = "Your server ended by itself. Your saved files are safe."
    action = "The last log lines tell why the program in the container ended."


class AppNeverListened(StartFailed):
    code = "app-never-listened"
    sentence = "Your server runs but never opened its door. Your saved files are safe."
    action = "Check the image's port (DockerSpawner.port), or raise Spawner.http_timeout."


class AppAnswersErrors(StartFailed):
    code = "app-answers-errors"
    sentence = "Your server started but answers with errors only. Your saved files are safe."
    action = "The last log lines tell what the program in the container could not do."


class AppGone(StartFailed):
    code = "app-gone"
    sentence = "Your server was ended from outside. Your saved files are safe; you can start it again."
    action = "Somebody or something removed or killed the container; the box may have been restarted."


class AddressChanged(StartFailed):
    code = "address-changed"
    sentence = "The address of this box has changed, so your server has to be started again. Your saved files are safe."
    action = "Nothing: c.JupyterHub.base_url was changed, and a server learns its address when it starts."


class StartTimeout(StartFailed):
    code = "start-timeout"
    sentence = "Your server took too long to start. Your saved files are safe; please try again."
    action = "The box may be very busy; raise Spawner.start_timeout or start fewer servers at once."


class StopTimeout(StartFailed):
    code = "stop-timeout"
    sentence = "Your server could not be stopped in time. It will be tried again."
    action = "Look at the Docker Engine: a container that cannot be stopped points to a full disk or a hung engine."


class HomesUnavailable(StartFailed):
    code = "homes-unavailable"
    sentence = "The place where your files live is not available right now, so no server was started. Nothing is lost."
    action = "Mount the homes' file system, then try again."


class SpawnError(StartFailed):
    code = "spawn-error"
    sentence = "The box could not start your server. Your saved files are safe."
    action = "The evidence holds the Docker Engine's own words."


# -- a part of the box does not answer --------------------------------------------------------------------------------
class Unavailable(ApplianceError):
    code = "unavailable"
    sentence = "A part of this box does not answer right now. Please try again in a moment."
    action = "Look at the Hub's log."


class EngineDown(Unavailable):
    code = "engine-down"
    sentence = "Servers cannot be started right now because the box's container engine does not answer."
    action = "Start the Docker Engine (systemctl start docker); the Hub goes on by itself as soon as it answers."


class EngineUnsuitable(Unavailable):
    code = "engine-unsuitable"
    sentence = "The box's container engine is of a kind that cannot keep students apart, so no server was started."
    action = "Use a plain Docker Engine: rootless engines, Docker Desktop and userns-remap are not supported."


class IsolationUnproven(Unavailable):
    code = "isolation-unproven"
    sentence = "The box could not prove that servers are kept apart, so no server was started."
    action = "Look at the evidence; usually another firewall changed the bridge's rules."


class ProxyDown(Unavailable):
    code = "proxy-down"
    sentence = "The box's front door does not answer. It is being restarted."
    action = "Look at Traefik's log."


class CertificateTrouble(Unavailable):
    code = "certificate"
    sentence = "The box could not get its certificate."
    action = "Look at the Hub's log."


class DatabaseDown(Unavailable):
    code = "database-down"
    sentence = "The box's database does not answer right now. Running servers are not affected."
    action = "Check the database and the disk's free space."


class ServiceFailed(Unavailable):
    code = "service-failed"
    sentence = "This service does not run right now. Please try again in a moment."
    action = "Look at the page about services, which shows what it printed last."


class Misconfigured(ApplianceError):
    """For the terminal: says what is wrong and what to do. Ends the command with status 1."""

    code = "misconfigured"
    sentence = "The configuration cannot be used."
    action = "Correct the configuration."
