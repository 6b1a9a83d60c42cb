from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET, require_POST

from .models import Entry


@require_GET
def newest(request: HttpRequest) -> HttpResponse:
    """The newest entry."""
    entry = Entry.objects.order_by("-pk").first()
    return HttpResponse(f"{entry.pk} {entry}\n" if entry else "0\n", content_type="text/plain")


@require_POST
def write(request: HttpRequest) -> HttpResponse:
    """Write the id of the form; 200 acknowledges it."""
    return acknowledge(request.POST.get("id", ""), 0)


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    """Read the body and write the id of the query; 200 acknowledges it."""
    return acknowledge(request.GET.get("id", ""), len(request.body))


@require_GET
def visit(request: HttpRequest) -> HttpResponse:
    """Answer whether the visitor was here before, by a signed cookie."""
    known = request.get_signed_cookie("visit", default=None)
    response = HttpResponse("again\n" if known else "new\n", content_type="text/plain")
    response.set_signed_cookie("visit", "yes")
    return response


def acknowledge(key: str, size: int) -> HttpResponse:
    if not key:
        return HttpResponse("An id is needed.\n", status=400, content_type="text/plain")
    with transaction.atomic():
        # Reads before it writes, as most views do.
        before = Entry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        Entry.objects.create(key=key, payload=f"after {before}", size=size)
    return HttpResponse(f"{key}\n", content_type="text/plain")
