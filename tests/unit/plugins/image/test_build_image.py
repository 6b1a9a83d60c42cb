"""The instruction of the Dockerfile that labels an image."""

from __future__ import annotations

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import EngineError
from ansible_collections.hostwright.django.plugins.modules.build_image import label


def instruction(source_digest: str = "", **labels: str) -> str:
    return label({"digest": "d1", "labels": labels, "source_digest": source_digest})


def test_one_instruction_sets_all_labels() -> None:
    assert instruction("s1", title="polls") == (
        'LABEL hostwright="image" org.hostwright.build-digest="d1" title="polls" org.hostwright.source-digest="s1"'
    )
    assert "source-digest" not in instruction()


@pytest.mark.parametrize(
    ("value", "written"),
    [("a b", '"a b"'), ("", '""'), ('a"b', r'"a\"b"'), ("$HOME", r'"\$HOME"'), ("a\\b", r'"a\\b"'), ("é'#", '"é\'#"')],
)
def test_special_characters_in_a_value_are_escaped(value: str, written: str) -> None:
    assert instruction(revision=value).endswith(f" revision={written}")


def test_a_line_break_is_refused() -> None:
    with pytest.raises(EngineError, match="line break"):
        instruction(revision="a\nUSER 0")
