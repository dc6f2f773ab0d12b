"""What was read once is asked again as soon as anybody wrote: this process, or another one."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from sqlalchemy.orm import Session as Transaction

from appliance.errors import DatabaseDown
from appliance.store import users
from appliance.store.database import Database
from appliance.store.recall import TRUSTED_S, Recall

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Question:
    """Reads the names of all users and counts how often it was asked."""

    def __init__(self, db: Database) -> None:
        self.db, self.asked = db, 0

    def work(self, t: Transaction) -> tuple[str, ...]:
        self.asked += 1
        return tuple(user.name for user in users.list_all(t))

    async def names(self, **more: object) -> tuple[str, ...]:
        return await self.db.recall("names", self.work, **more)  # type: ignore[arg-type]


def add(db: Database, name: str) -> None:
    db.run(lambda t: users.add(t, name))


async def test_nothing_is_asked_twice_while_nobody_writes(db: Database) -> None:
    question = Question(db)
    add(db, "ada")
    began = time.monotonic()
    for _ in range(5):
        assert await question.names() == ("ada",)
        await db.read(users.list_all)       # reading changes nothing
    assert question.asked <= 1 + (time.monotonic() - began) / TRUSTED_S + 1
    if db.url.startswith("sqlite"):
        assert question.asked == 1


async def test_own_writes_are_seen_at_once(db: Database) -> None:
    question = Question(db)
    for number in range(5):
        add(db, f"user{number}")
        assert len(await question.names()) == number + 1
    await db.transact(lambda t: users.delete(t, "user0"))
    assert "user0" not in await question.names()


async def test_another_process_is_seen_at_once_or_a_second_later(db: Database) -> None:
    question, other = Question(db), Database(db.url)
    try:
        assert await question.names() == ()
        add(other, "ada")
        if not db.url.startswith("sqlite"):
            await anyio.sleep(TRUSTED_S + 0.05)
        assert await question.names() == ("ada",)
    finally:
        other.close()


async def test_what_failed_wrote_nothing(db: Database) -> None:
    question = Question(db)
    add(db, "ada")
    assert await question.names() == ("ada",)

    def work(t: Transaction) -> None:
        users.add(t, "bob")
        raise KeyError

    with pytest.raises(KeyError):
        await db.transact(work)
    assert await question.names() == ("ada",)


async def test_a_value_is_kept_as_long_as_it_says(db: Database) -> None:
    question = Question(db)
    for _ in range(3):
        await question.names(keep_s=lambda names: 0)
    assert question.asked == 3
    await question.names(keep_s=lambda names: 0.02)
    await anyio.sleep(0.03)
    await question.names()
    assert question.asked == 5


async def test_a_value_from_before_a_write_is_not_taken_for_one_from_after(db: Database) -> None:
    def work(t: Transaction) -> tuple[str, ...]:
        found = tuple(user.name for user in users.list_all(t))
        add(db, f"user{len(found)}") if not found else None     # somebody writes while this reads
        return found

    db.ensure_current()     # with SQLite's write-ahead log, as every box has it
    assert await db.recall("names", work) == ()
    assert await db.recall("names", work) == ("user0",)


def test_it_does_not_grow_for_ever() -> None:
    recall = Recall("", most=10)
    for number in range(30):
        recall.keep(number, 1, "x", 60)
    assert [number for number in range(30) if recall.find(number, 1)] == list(range(20, 30))
    recall.keep("page", 1, "x", 60, weight=8)
    assert recall.find("page", 1)
    assert sum(bool(recall.find(number, 1)) for number in range(30)) == 2
    recall.keep("page", 1, "y", 60, weight=1)       # the same one, smaller
    for number in range(40, 47):
        recall.keep(number, 1, "x", 60)
    assert recall.find("page", 1)
    recall.keep("too large", 1, "x", 60, weight=11)
    assert recall.find("too large", 1) is None


async def test_a_database_that_is_gone_is_told_of_and_not_remembered(tmp_path: Path) -> None:
    recall = Recall(str(tmp_path / "nowhere" / "x.sqlite"))
    assert recall.version() != recall.version()
    db = Database(f"{tmp_path}/nowhere/x.sqlite")
    with pytest.raises(DatabaseDown):
        await db.recall("names", Question(db).work)
    db.close()


def test_a_file_of_any_name_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "a #1%20?x"
    folder.mkdir()
    (folder / "x.sqlite").touch()
    recall = Recall(str(folder / "x.sqlite"))
    assert recall.version() == recall.version()
    recall.close()
