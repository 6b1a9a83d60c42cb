import time
import uuid

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from entries.models import Entry


class Command(BaseCommand):
    help = "Writes COUNT ids, one a transaction, and prints each when it is there."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("count", type=int)
        parser.add_argument("--pause", type=float, default=0.0, help="seconds between two")

    def handle(self, *, count: int, pause: float, **options: object) -> None:
        for _ in range(count):
            key = f"command-{uuid.uuid4()}"
            with transaction.atomic():
                Entry.objects.create(key=key)
            self.stdout.write(key)
            self.stdout.flush()
            time.sleep(pause)
