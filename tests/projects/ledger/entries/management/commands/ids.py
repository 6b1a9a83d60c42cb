from django.core.management.base import BaseCommand

from entries.models import Entry


class Command(BaseCommand):
    help = "Prints the ids, one a line, as often as they are there."

    def handle(self, **options: object) -> None:
        for key in Entry.objects.exclude(key="").values_list("key", flat=True).iterator():
            self.stdout.write(key)
