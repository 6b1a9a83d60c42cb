"""The pages: the open polls, one poll to vote in, its results."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods
from django.views.generic import DetailView, ListView

from .forms import Ballot
from .models import Question


class IndexView(ListView):
    """The open polls, newest first."""

    paginate_by = 10
    template_name = "polls/index.html"

    def get_queryset(self) -> QuerySet[Question]:
        return Question.objects.open().with_total().order_by("-published", "-pk")


@require_http_methods(["GET", "HEAD", "POST"])
def question(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a poll's ballot; count the vote that is posted, then show the results."""
    poll = get_object_or_404(Question.objects.published(), pk=pk)
    if not poll.is_open:
        return redirect("polls:results", pk=pk)
    ballot = Ballot(poll, request.POST if request.method == "POST" else None)
    if ballot.is_valid():
        choice = ballot.cleaned_data["choice"]
        choice.vote()
        messages.success(request, f"Thank you. Your vote for “{choice}” is counted.")
        return redirect("polls:results", pk=pk)
    return render(request, "polls/question.html", {"question": poll, "ballot": ballot})


class ResultsView(DetailView):
    """The votes of a poll as a bar chart, also after it has closed."""

    template_name = "polls/results.html"

    def get_queryset(self) -> QuerySet[Question]:
        return Question.objects.published().with_total()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add `bars`: choice, share in per cent, and whether it leads."""
        total = self.object.total
        choices = self.object.choices.order_by("-votes", "pk")
        most = max((choice.votes for choice in choices), default=0)
        bars = [
            {
                "choice": choice,
                "percent": round(100 * choice.votes / total) if total else 0,
                "leads": 0 < choice.votes == most,
            }
            for choice in choices
        ]
        return super().get_context_data(bars=bars, **kwargs)
