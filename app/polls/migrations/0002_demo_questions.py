"""Two questions, so that a new site has something to show."""

from django.db import migrations

DEMO = {
    "What makes a good afternoon?": [
        "A walk in the woods",
        "A book and a cup of tea",
        "Baking something",
        "A board game with friends",
    ],
    "Which season do you look forward to most?": [
        "Spring",
        "Summer",
        "Autumn",
        "Winter",
    ],
}


def add(apps, schema_editor):
    Question = apps.get_model("polls", "Question")
    Choice = apps.get_model("polls", "Choice")
    for text, choices in DEMO.items():
        question, _ = Question.objects.get_or_create(text=text)
        for choice in choices:
            Choice.objects.get_or_create(question=question, text=choice)


class Migration(migrations.Migration):
    dependencies = [("polls", "0001_initial")]

    # The reverse keeps the questions: they may have votes by then.
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
