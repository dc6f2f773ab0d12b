"""The only place that knows which HTTP status an error has, and how it looks to a person and to a program."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from appliance import errors
from appliance.errors import ApplianceError
from appliance.web.views import Page, render
from appliance.web.visit import Visit

STATUS: dict[type[ApplianceError], int] = {
    errors.ApplianceError: 500,
    errors.BadInput: 400,
    errors.BadName: 400,
    errors.BadNext: 400,
    errors.BadOption: 400,
    errors.BadScope: 400,
    errors.Exists: 409,
    errors.TooManyServers: 400,
    errors.NotHere: 405,
    errors.BodyTooLarge: 413,
    errors.Refused: 403,
    errors.NotSignedIn: 403,
    errors.LoginRefused: 403,
    errors.LoginThrottled: 429,
    errors.BadXsrf: 403,
    errors.ForeignOrigin: 403,
    errors.NotYours: 403,
    errors.NotAdmin: 403,
    errors.MissingScope: 403,
    errors.Archived: 403,
    errors.MustChangePassword: 403,
    errors.NotFound: 404,
    errors.StartFailed: 500,
    errors.ImageMissing: 500,
    errors.ImageNotAllowed: 403,
    errors.ImageBroken: 500,
    errors.OutOfMemory: 500,
    errors.DiskFull: 507,
    errors.HomeFull: 507,
    errors.NoAddress: 503,
    errors.BoxFull: 503,
    errors.AppExited: 500,
    errors.AppNeverListened: 500,
    errors.AppAnswersErrors: 500,
    errors.AppGone: 500,
    errors.AddressChanged: 500,
    errors.StartTimeout: 500,
    errors.StopTimeout: 500,
    errors.HomesUnavailable: 503,
    errors.SpawnError: 500,
    errors.Unavailable: 503,
    errors.EngineDown: 503,
    errors.EngineUnsuitable: 503,
    errors.IsolationUnproven: 503,
    errors.ProxyDown: 503,
    errors.CertificateTrouble: 503,
    errors.DatabaseDown: 503,
    errors.ServiceFailed: 503,
    errors.Misconfigured: 500,
}
RETRY_AFTER_S = 5

_TITLES = {
    400: "That did not work", 403: "Not allowed", 404: "Nothing here", 405: "That did not work",
    409: "Already taken", 413: "Too large", 424: "Your server is not running", 429: "Please wait a moment",
    500: "Something went wrong", 502: "Your server does not answer", 503: "Not available right now",
    504: "Your server does not answer", 507: "The disk is full",
}
# of these the action is for whoever reads the page; of all others it is for who runs the box
_ACTION_FOR_ALL = (errors.BadInput, errors.Refused, errors.NotFound)


@dataclass(frozen=True)
class ErrorPage(Page):
    title: str
    status: int
    sentence: str
    action: str = ""              # what the reader can do
    admin_action: str = ""        # shown to admins
    evidence: str = ""            # shown to admins
    error_id: str = ""
    button: str = ""              # words on the button, and where it leads
    button_url: str = ""


def status_of(error: ApplianceError) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def of_http(status: int) -> ApplianceError:
    """Return what to say where Starlette itself refused."""
    if status == 404:
        return errors.NotFound()
    if status == 405:
        return errors.BadInput("This address does not do that.", action="Go back and use the buttons on the page.")
    if status == 413:
        return errors.BodyTooLarge()
    return errors.BadInput() if status < 500 else ApplianceError()


def title_of(status: int) -> str:
    return _TITLES.get(status, "Something went wrong")


def show_error(
    visit: Visit, error: ApplianceError, *, status: int | None = None, error_id: str = "",
    button: str = "", button_url: str = "",
) -> Response:
    """Return the page, or the JSON, that says what happened and what to do."""
    status = status or status_of(error)
    if visit.wants_html:
        admin = visit.user is not None and visit.user.admin
        for_all = isinstance(error, _ACTION_FOR_ALL)
        response = render(visit, "error.html", ErrorPage(
            title=title_of(status), status=status, sentence=error.sentence,
            action=error.action if for_all else "",
            admin_action=error.action if admin and not for_all else "",
            evidence=error.evidence if admin else "", error_id=error_id,
            button=button, button_url=button_url,
        ), status)
    else:
        rights = visit.requester.rights if visit.requester else None
        for_admin = status >= 500 and rights is not None and rights.has("admin:servers")
        response = error_json(status, error.sentence, error_id=error_id, action=error.action if for_admin else "",
                              evidence=error.evidence if for_admin else "")
    if isinstance(error, errors.LoginThrottled):
        response.headers["Retry-After"] = str(error.retry_after_s)
    elif status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def error_json(status: int, message: str, **more: str) -> Response:
    """As JupyterHub's API: {"status": 404, "message": "…"}. more: error_id, action, evidence; left out where empty."""
    content: dict[str, object] = {"status": status, "message": message}
    return JSONResponse(content | {name: said for name, said in more.items() if said}, status)
