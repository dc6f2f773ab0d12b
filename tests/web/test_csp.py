from __future__ import annotations

import json
import logging

import pytest

from appliance.web import csp

from .browser import SCRIPT, Browser

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

REPORT = {"csp-report": {
    "document-uri": "http://box.test/user/alice/lab?token=verysecret#x", "blocked-uri": "https://evil.test/a.js?code=verysecret",
    "violated-directive": "script-src\nINFO forged", "source-file": "ignored"}}


@pytest.fixture(autouse=True)
def quiet() -> None:
    csp._written_at.clear()


async def send(browser: Browser, body: str) -> int:
    response = await browser.client.post(
        "/hub/security/csp-report", content=body, headers=SCRIPT | {"Content-Type": "application/csp-report"})
    assert not response.content
    return response.status_code


async def test_a_report_is_written_without_secrets(stranger: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert await send(stranger, json.dumps(REPORT)) == 204
    [line] = [record.getMessage() for record in caplog.records]
    assert "http://box.test/user/alice/lab" in line
    assert "https://evil.test/a.js" in line
    assert "verysecret" not in line
    assert "\n" not in line


@pytest.mark.parametrize("body", ["", "{", "[]", "1", '{"csp-report": []}', '{"csp-report": {"document-uri": 5}}', "\x00",
                                  '{"csp-report": {"blocked-uri": "http://[x"}}', "[" * 30_000])
async def test_what_is_no_report_is_taken_and_forgotten(
        stranger: Browser, body: str, caplog: pytest.LogCaptureFixture) -> None:
    assert await send(stranger, body) == 204
    assert "Traceback" not in caplog.text


async def test_many_reports_or_large_ones_do_not_fill_the_log(stranger: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(csp.MOST_PER_MINUTE + 5):
            assert await send(stranger, json.dumps(REPORT)) == 204
        response = await stranger.client.post("/hub/security/csp-report", content=b"x" * 2_000_000, headers=SCRIPT)
    assert response.status_code == 413
    assert len(caplog.records) == csp.MOST_PER_MINUTE
    assert all(len(record.getMessage()) < 500 for record in caplog.records)
