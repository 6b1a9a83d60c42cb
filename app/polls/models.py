"""Questions, their choices and the votes counted for each."""

from __future__ import annotations

from typing import Self

from django.contrib import admin
from django.db import models
from django.db.models import Exists, F, OuterRef, Q, Sum
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils import timezone


class QuestionQuerySet(models.QuerySet["Question"]):
    """Queries of questions, by their visibility to visitors."""

    def published(self) -> Self:
        """Published questions that have choices."""
        choices = Choice.objects.filter(question=OuterRef("pk"))
        return self.filter(Exists(choices), published__lte=timezone.now())

    def open(self) -> Self:
        """Published questions that still accept votes."""
        return self.published().filter(
            Q(closes=None) | Q(closes__gt=timezone.now()),
        )

    def with_total(self) -> Self:
        """Add `total`, the number of votes of all choices."""
        return self.annotate(total=Coalesce(Sum("choices__votes"), 0))


class Question(models.Model):
    """A question that visitors answer by choosing one of its choices."""

    text = models.CharField("question", max_length=200)
    published = models.DateTimeField(
        default=timezone.now,
        db_index=True,
        help_text="Hidden from visitors until then.",
    )
    closes = models.DateTimeField(
        null=True,
        blank=True,
        help_text="No votes from then on; the results stay readable. Leave empty for a poll without an end.",
    )

    objects = QuestionQuerySet.as_manager()

    class Meta:
        ordering = ["-published", "-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(closes=None) | Q(closes__gt=F("published")),
                name="question_closes_after_published",
                violation_error_message="A poll closes after it is published.",
            ),
        ]

    def __str__(self) -> str:
        return self.text

    def get_absolute_url(self) -> str:
        return reverse("polls:question", args=[self.pk])

    @property
    @admin.display(description="open", boolean=True)
    def is_open(self) -> bool:
        """Whether the question accepts votes now."""
        now = timezone.now()
        return self.published <= now and (self.closes is None or now < self.closes)


class Choice(models.Model):
    """One answer to a question, with the votes it received."""

    question = models.ForeignKey(
        Question,
        on_delete=models.CASCADE,
        related_name="choices",
    )
    text = models.CharField("choice", max_length=200)
    votes = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["question", "text"],
                name="choice_once_per_question",
                violation_error_message="This choice is there already.",
            ),
        ]

    def __str__(self) -> str:
        return self.text

    def vote(self) -> None:
        """Count one vote, in the database, so that no simultaneous vote is lost."""
        type(self).objects.filter(pk=self.pk).update(votes=F("votes") + 1)
