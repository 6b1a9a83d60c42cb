"""Exchanging lines with a program, and the migrator's requests."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.host.line_process import Conversation, ConversationError
from ansible_collections.hostwright.django.plugins.module_utils.release.migrator import Migrator, MigratorError

ECHO = "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)"
# Answers every request with the request itself; 'guard' fails, 'check' ends it, the answer to 'copy' is not JSON.
SCRIPT = """
import json, sys
print(json.dumps({"pending": []}), flush=True)
for line in sys.stdin:
    word = json.loads(line)
    if word["do"] == "guard":
        print(json.dumps({"error": "a writer keeps the lock", "log": "its log"}), flush=True)
    elif word["do"] == "check":
        print("the reason", file=sys.stderr)
        sys.exit(3)
    elif word["do"] == "copy":
        print("what?", flush=True)
    else:
        print(json.dumps(word), flush=True)
"""


def talk(script: str) -> Conversation:
    return Conversation([sys.executable, "-c", script])


def test_lines_are_sent_and_received() -> None:
    conversation = talk(ECHO)
    conversation.say("one")
    conversation.say("two")
    assert [conversation.hear(10), conversation.hear(10)] == ["ONE", "TWO"]
    conversation.close()


def test_a_long_line_is_received_whole() -> None:
    conversation = talk("print('x' * 300_000, flush=True)")
    assert len(conversation.hear(10)) == 300_000
    conversation.close()


def test_a_timeout_and_the_end_of_the_program_are_different_errors() -> None:
    conversation = talk("import sys, time; sys.stdin.read(); sys.stderr.write('why'); sys.exit(3)")
    with pytest.raises(ConversationError, match="printed no line within 0 s"):
        conversation.hear(0.05)
    conversation._out.close()
    with pytest.raises(ConversationError, match="ended with exit status 3"):
        conversation.hear(10)
    assert conversation.errors() == "why"
    conversation.close()


def test_sending_a_line_to_a_program_that_has_ended() -> None:
    conversation = talk("")
    conversation._process.wait()
    with pytest.raises(ConversationError, match="it ended"):
        conversation.say("hello?")
    conversation.close()


def test_a_program_that_does_not_end_is_killed() -> None:
    conversation = talk("import time; time.sleep(60)")
    start = time.monotonic()
    conversation.close(patience=0.1)
    assert time.monotonic() - start < 5
    assert conversation._process.returncode == -9


def test_writing_to_standard_error_never_blocks_the_program() -> None:
    conversation = talk("import sys; sys.stderr.write('x' * 1_000_000); print('done', flush=True)")
    assert conversation.hear(10) == "done"
    conversation.close()


def test_the_migrator_s_requests() -> None:
    migrator = Migrator(talk(SCRIPT))
    assert migrator.look(10) == {"pending": []}
    assert migrator.migrate("/db", [], 5) == {"do": "migrate", "limit": 5, "database": "/db", "backwards": []}
    asked = migrator.rehearse("/db", "/scratch", ["polls.0002_more"], 6)
    assert asked == {
        "do": "rehearse", "limit": 6, "source": "/db", "scratch": "/scratch", "backwards": ["polls.0002_more"]
    }  # fmt: skip
    with pytest.raises(MigratorError, match="a writer keeps the lock") as caught:
        migrator.guard("/db", 1)
    assert caught.value.log == "its log"
    assert not migrator.guarding
    with pytest.raises(MigratorError, match="not JSON"):
        migrator.copy("/db", "/new", 5)
    with pytest.raises(MigratorError, match="exit status 3") as caught:
        migrator.check()
    assert caught.value.log == "the reason"
    migrator.close()


def test_a_missing_docker_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot run"):
        Engine(str(tmp_path / "docker")).talk("run")


def test_a_program_ends_by_itself_when_its_input_is_closed() -> None:
    conversation = talk(ECHO)
    conversation.end()
    assert conversation._process.wait(5) == 0
    conversation.close()
