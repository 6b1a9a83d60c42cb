from pathlib import Path

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from entries.models import Entry

ROWS = 2000


class Command(BaseCommand):
    help = "Fills the database with entries without a key until it is MEGABYTES large."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("megabytes", type=float)

    def handle(self, *, megabytes: float, **options: object) -> None:
        database = Path(connection.settings_dict["NAME"])
        size = 0
        while size < megabytes * 1e6:
            Entry.objects.bulk_create(Entry(key="", payload="0123456789" * 80) for _ in range(ROWS))
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.fetchone()
            size = database.stat().st_size
        self.stdout.write(f"{Entry.objects.count()} entries, {size} bytes")
