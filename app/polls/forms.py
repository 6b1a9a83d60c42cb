"""The ballot."""

from typing import Any

from django import forms

from .models import Choice, Question


class Ballot(forms.Form):
    """The choices of one question, from which a visitor selects one."""

    choice = forms.ModelChoiceField(
        queryset=Choice.objects.none(),
        widget=forms.RadioSelect,
        empty_label=None,
        error_messages={
            "required": "Please choose an answer.",
            "invalid_choice": "Please choose one of the answers below.",
        },
    )

    def __init__(self, question: Question, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["choice"].queryset = question.choices.all()
        self.fields["choice"].label = question.text
