"""Import the project; if that fails, explain why in one message."""

import importlib
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostwright import configuration
from hostwright.errors import HostwrightError, ProjectError

_FOREIGN = ("site-packages", "dist-packages")


def setup() -> None:
    """Import the settings and set Django up.

    Raises:
        ProjectError: the import failed; the message names the module, the line and the exception.
    """
    with explained("the settings"):
        load_settings()
    with explained("the applications of INSTALLED_APPS"):
        import django

        django.setup()


def load_settings() -> Any:
    """Import the settings module that ``DJANGO_SETTINGS_MODULE`` names.

    Returns:
        ``django.conf.settings``.
    """
    # Needed where the overlay is off; where it is on, the overlay does it again, with the same result.
    configuration.export(configuration.load())
    from django.conf import settings

    # Django imports the settings module at the first access to any setting.
    settings.INSTALLED_APPS  # noqa: B018
    return settings


def wsgi_application() -> Callable[..., Any]:
    """Import the project's WSGI application.

    ``HOSTWRIGHT_WSGI`` names it, else WSGI_APPLICATION in the settings. If neither is set it is Django's default.
    """
    # Settings first, so that a wsgi.py that assigns DJANGO_SETTINGS_MODULE has no effect.
    settings = load_settings()
    name = os.environ.get("HOSTWRIGHT_WSGI") or settings.WSGI_APPLICATION
    if not name:
        from django.core.wsgi import get_wsgi_application

        application: Callable[..., Any] = get_wsgi_application()
        return application
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    found: Callable[..., Any] | None = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise ProjectError(
            f'The WSGI application "{name}" does not exist: {module} has no "{attribute}". Set site_wsgi.'
        )
    return found


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn any exception of the project's code into a ProjectError.

    Args:
        what: the step that the body performs, for the message.
    """
    try:
        yield
    except HostwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise ProjectError(explanation(error, what, Path.cwd())) from error


def explanation(error: BaseException, what: str, root: Path) -> str:
    """Return a message with the exception, the line of the project, and advice.

    Args:
        error: the caught exception.
        what: the step that failed.
        root: the project's directory; frames of files outside it are not shown.
    """
    message = str(error).strip() or repr(error)
    text = f"The project does not import ({what}): {type(error).__name__}: {message}"
    place = project_line(error, root)
    if place:
        text += f"\n  at {place}"
    advice = _advice(error, root)
    return f"{text}\n{advice}" if advice else text


def project_line(error: BaseException, root: Path) -> str | None:
    """Return the last frame of a traceback within the project.

    Returns:
        A text such as ``polls/views.py:12: import requests``; None if no frame is in the project.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SyntaxError) and seen.filename and _is_project(seen.filename, root):
            return f"{_relative(seen.filename, root)}:{seen.lineno}: {(seen.text or '').strip()}"
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if _is_project(frame.filename, root):
                return f"{_relative(frame.filename, root)}:{frame.lineno}: {frame.line}"
        seen = seen.__cause__ or seen.__context__
    return None


def _is_project(filename: str, root: Path) -> bool:
    path = Path(filename)
    return path.is_absolute() and path.is_relative_to(root) and not any(part in _FOREIGN for part in path.parts)


def _relative(filename: str, root: Path) -> str:
    return str(Path(filename).relative_to(root))


def _advice(error: BaseException, root: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        settings = os.environ.get("HOSTWRIGHT_SETTINGS") or os.environ.get("DJANGO_SETTINGS_MODULE", "")
        wsgi = os.environ.get("HOSTWRIGHT_WSGI", "")
        for variable, named in (("site_settings", settings), ("site_wsgi", wsgi)):
            if named == error.name or named.startswith((error.name + ".", error.name + ":")):
                return f'{variable} names "{named}", which is not in the project ({root}).'
        top = error.name.partition(".")[0]
        if (root / top).is_dir() or (root / f"{top}.py").is_file():
            return f'The module "{error.name}" is missing in the project itself.'
        return f'The module "{top}" is missing: add the package that provides it to the project\'s requirements.'
    if (
        isinstance(error, KeyError)
        and len(error.args) == 1
        and isinstance(error.args[0], str)
        and error.args[0].isupper()
    ):
        return (
            f"If {error.args[0]} is an environment variable, declare it in site_environment_variables or site_secrets."
        )
    if type(error).__name__ in {"ImproperlyConfigured", "UndefinedValueError"} and "variable" in str(error):
        return "Declare environment variables in site_environment_variables or site_secrets."
    return ""
