"""The files that the runtime writes while the image is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostwright import install
from hostwright.errors import HostwrightError


def test_install_once_and_again(tmp_path: Path) -> None:
    root, prefix = tmp_path / "root", tmp_path / "opt"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash", encoding="utf-8")
    assert len(install.install(prefix, root)) == 3
    assert (root / "etc" / "passwd").read_text(encoding="utf-8") == (
        "root:x:0:0:root:/root:/bin/bash\nsite:x:10001:10001:Hostwright site:/tmp:/usr/sbin/nologin\n"
    )
    assert (root / "etc" / "group").read_text(encoding="utf-8") == "site:x:10001:\n"
    text = next(root.rglob("hostwright.pth")).read_text(encoding="utf-8")
    assert [text.index(f"{prefix}/{name}") for name in ("requirements", "server", "runtime")] == sorted(
        text.index(f"{prefix}/{name}") for name in ("requirements", "server", "runtime")
    )
    assert text.splitlines()[-1] == "import hostwright.sqlite"
    assert install.install(prefix, root) == []


def test_another_account_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("site:x:1000:1000::/home/site:/bin/sh\n", encoding="utf-8")
    with pytest.raises(HostwrightError, match="account 'site' with another id, 1000"):
        install.install(tmp_path / "opt", tmp_path)
