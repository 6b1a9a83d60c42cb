from django.conf import settings
from django.test import TestCase, override_settings
from django.utils.html import escape

PLAIN = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage",
    },
}


@override_settings(STORAGES=PLAIN)
class NotesTests(TestCase):
    def test_a_note_is_kept_and_rendered(self):
        page = self.client.post("/", {"text": "Buy *plums* <script>"}, follow=True)
        self.assertRedirects(page, "/")
        self.assertContains(page, "Buy <em>plums</em> &lt;script&gt;")
        self.assertContains(page, escape(settings.NOTES_TITLE))

    def test_an_empty_note_is_refused(self):
        page = self.client.post("/", {"text": " "})
        self.assertContains(page, "This field is required.")

    def test_a_link_cannot_run_a_script(self):
        page = self.client.post("/", {"text": "[x](javascript:alert)"}, follow=True)
        self.assertNotContains(page, 'href="javascript')

    def test_export_needs_the_token(self):
        self.client.post("/", {"text": "Plums"})
        self.assertEqual(self.client.get("/export.json").status_code, 401)
        headers = {"Authorization": f"Bearer {settings.NOTES_TOKEN}"}
        notes = self.client.get("/export.json", headers=headers).json()["notes"]
        self.assertEqual([note["text"] for note in notes], ["Plums"])
