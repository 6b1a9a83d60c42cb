import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Question",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("text", models.CharField(max_length=200, verbose_name="question")),
                (
                    "published",
                    models.DateTimeField(
                        db_index=True,
                        default=django.utils.timezone.now,
                        help_text="Hidden from visitors until then.",
                    ),
                ),
                (
                    "closes",
                    models.DateTimeField(
                        blank=True,
                        help_text="No votes from then on; the results stay readable. Leave empty for a poll without an end.",
                        null=True,
                    ),
                ),
            ],
            options={
                "ordering": ["-published", "-pk"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("closes", None),
                            ("closes__gt", models.F("published")),
                            _connector="OR",
                        ),
                        name="question_closes_after_published",
                        violation_error_message="A poll closes after it is published.",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Choice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("text", models.CharField(max_length=200, verbose_name="choice")),
                ("votes", models.PositiveIntegerField(default=0, editable=False)),
                (
                    "question",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="choices",
                        to="polls.question",
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("question", "text"),
                        name="choice_once_per_question",
                        violation_error_message="This choice is there already.",
                    )
                ],
            },
        ),
    ]
