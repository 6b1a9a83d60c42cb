from django.db import models


class Entry(models.Model):
    """One written id. The column is not unique, so that a doubled id can be detected."""

    key = models.CharField(max_length=80, db_index=True)
    payload = models.CharField(max_length=1000, blank=True)
    size = models.PositiveIntegerField(default=0)
    written = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.key
