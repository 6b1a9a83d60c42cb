import logging
from typing import Any

from django.conf import settings
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse_lazy
from django.utils.crypto import constant_time_compare
from django.views.generic import CreateView

from .models import Note

logger = logging.getLogger(__name__)


class NotesView(CreateView):
    """All notes, and a form that adds one."""

    model = Note
    fields = ["text"]
    success_url = reverse_lazy("notes")
    template_name = "notes/notes.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(
            title=settings.NOTES_TITLE, notes=Note.objects.all(), **kwargs
        )

    def form_valid(self, form: ModelForm) -> HttpResponse:
        response = super().form_valid(form)
        logger.info("note %d added", self.object.pk)
        return response


def export(request: HttpRequest) -> HttpResponse:
    """All notes as JSON, for a program that sends the token."""
    given = request.headers.get("Authorization", "")
    if not constant_time_compare(given, f"Bearer {settings.NOTES_TOKEN}"):
        return HttpResponse("A token is needed.\n", status=401)
    return JsonResponse({"notes": list(Note.objects.values("text", "written"))})
