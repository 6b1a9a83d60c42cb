"""Questions with their choices on one page."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from .models import Choice, Question


class ChoiceInline(admin.TabularInline):
    """The choices below their question; votes are read-only."""

    model = Choice
    fields = ["text", "votes"]
    readonly_fields = ["votes"]
    min_num = 2
    extra = 1


@admin.register(Question)
class QuestionAdmin(admin.ModelAdmin):
    """The list of questions, and one question with its choices."""

    list_display = ["text", "published", "closes", "is_open", "votes"]
    search_fields = ["text", "choices__text"]
    date_hierarchy = "published"
    fieldsets = [
        (None, {"fields": ["text"]}),
        ("When visitors see it", {"fields": ["published", "closes"]}),
    ]
    inlines = [ChoiceInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Question]:
        return super().get_queryset(request).with_total()

    @admin.display(ordering="total")
    def votes(self, question: Question) -> int:
        return question.total
