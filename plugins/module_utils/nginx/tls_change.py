"""Changes of the sites' certificates, and the files of Nginx's configuration that match them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .acme import CERTIFICATE, KEY, Pair, Store


@dataclass(frozen=True)
class Certificates:
    """Difference between the store and the certificates that some sites should have."""

    store: Store
    new: Mapping[str, Pair]
    """Pairs to put in place, by site."""
    known: Mapping[str, Mapping[str, Any]]
    """Facts to record in ``status.json``, by site."""
    leaving: Sequence[str]
    """Sites whose certificates are removed, because they no longer use TLS."""
    secured: Collection[str]
    """Sites that have a certificate after the change, also those of other inventories."""

    @classmethod
    def of(
        cls, store: Store, sites: Sequence[str], given: Sequence[Mapping[str, Any]], acme: Collection[str]
    ) -> Certificates:
        """Compare the store with the wanted certificates.

        Args:
            store: the certificates on the host.
            sites: names of this inventory's sites.
            given: certificates from the control node, with ``site``, ``certificate``, ``key``, ``names``, ``expires``.
            acme: names of the sites whose certificates come from a CA; they are not changed here.
        """
        status = store.status()
        pairs = {one["site"]: Pair(_lines(one["certificate"]), _lines(one["key"])) for one in given}
        known = {one["site"]: {"kind": "files", "names": one["names"], "expires": one["expires"]} for one in given}
        without = [site for site in sites if site not in pairs and site not in acme]
        stored = {path.name for path in store.directory.glob("[!.]*") if path.is_symlink()}
        return cls(
            store,
            {site: pair for site, pair in pairs.items() if store.read(site) != pair},
            {site: facts for site, facts in known.items() if status.get(site) != facts},
            [site for site in without if site in stored or site in status],
            (stored | set(pairs)) - set(without),
        )

    def __bool__(self) -> bool:
        return bool(self.new or self.known or self.leaving)

    def files(self, files: Mapping[str, str], plain: Mapping[str, str]) -> dict[str, str]:
        """Return the files for the time after the change.

        Args:
            files: texts for HTTPS, by path.
            plain: texts for plain HTTP, by path: used for a site without a certificate, and for shared files if no
                site has one.
        """

        def secured(name: str) -> bool:
            site = name.removeprefix("sites/").removesuffix(".conf")
            return site in self.secured if name.startswith("sites/") else bool(self.secured)

        return {name: text if secured(name) else plain.get(name, text) for name, text in files.items()}

    def place(self) -> None:
        """Put all new certificates in place; if one cannot be written, none.

        Raises:
            OSError: a certificate cannot be written.
        """
        before = {site: self.store.current(site) for site in self.new}
        try:
            staged = {site: self.store.stage(site, pair) for site, pair in self.new.items()}
            for site, place in staged.items():
                self.store.switch(site, place)
        except OSError:
            for site, place_before in before.items():
                if self.store.current(site) != place_before:
                    self.store.switch(site, place_before)
            raise
        finally:
            for site in self.new:
                self.store.tidy(site)
        for site, facts in self.known.items():
            self.store.record(site, facts)

    def remove(self) -> None:
        """Remove certificates and keys of sites without TLS; call it when the configuration no longer uses them."""
        for site in self.leaving:
            self.store.switch(site, None)
            self.store.tidy(site)
            self.store.record(site, None)

    def difference(self) -> list[dict[str, str]]:
        """Return the change as a diff for Ansible, with digests instead of keys."""
        parts = []
        for site in sorted({*self.new, *self.leaving}):
            old, new = self.store.read(site), self.new.get(site)
            chains = [pair.certificate if pair else "" for pair in (old, new)]
            keys = [f"SHA-256 of the key: {_digest(pair.key)}\n" if pair else "" for pair in (old, new)]
            for name, (before, after) in ((CERTIFICATE, chains), (KEY, keys)):
                parts.append(diff(f"tls/{site}/{name}", before, after))
        return parts


def diff(path: str, before: str | None, after: str | None) -> dict[str, str]:
    """Return a file's change as a diff for Ansible; None: no file."""
    return {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(text: str) -> str:
    """Use this system's line ends, as in files that are read back from the disk."""
    return "\n".join(text.strip().splitlines()) + "\n"
