from io import StringIO

from django.core.management import call_command
from django.test import TestCase

from .models import Entry


class LedgerTests(TestCase):
    def test_a_written_id_is_present(self):
        self.assertContains(self.client.post("/write", {"id": "a"}), "a")
        self.assertContains(self.client.post("/upload?id=b", b"x" * 100, content_type="text/plain"), "b")
        self.assertEqual(list(Entry.objects.order_by("pk").values_list("key", "size")), [("a", 0), ("b", 100)])
        self.assertContains(self.client.get("/"), "b")

    def test_an_id_that_is_sent_twice_is_present_twice(self):
        for _ in range(2):
            self.assertEqual(self.client.post("/write", {"id": "a"}).status_code, 200)
        out = StringIO()
        call_command("ids", stdout=out)
        self.assertEqual(out.getvalue().split(), ["a", "a"])

    def test_a_request_without_an_id_is_refused(self):
        self.assertEqual(self.client.post("/write").status_code, 400)
        self.assertEqual(Entry.objects.count(), 0)

    def test_a_returning_visitor_is_recognized(self):
        self.assertContains(self.client.get("/visit"), "new")
        self.assertContains(self.client.get("/visit"), "again")
        self.client.cookies["visit"] = "yes:forged"
        self.assertContains(self.client.get("/visit"), "new")

    def test_the_command_prints_the_written_ids(self):
        out = StringIO()
        call_command("write", 3, stdout=out)
        self.assertEqual(sorted(out.getvalue().split()), sorted(Entry.objects.values_list("key", flat=True)))
