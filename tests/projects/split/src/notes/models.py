import mistune
from django.db import models
from django.utils.safestring import SafeString, mark_safe

# Escapes HTML in the text and drops links that would run a script.
render = mistune.create_markdown(escape=True)


class Note(models.Model):
    """A note in Markdown."""

    text = models.TextField(max_length=5000)
    written = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-written", "-pk"]

    def __str__(self) -> str:
        return self.text[:60]

    @property
    def html(self) -> SafeString:
        return mark_safe(render(self.text))
