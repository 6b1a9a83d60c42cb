"""Tests of the polls, for visitors and editors."""

import re
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.contrib.staticfiles import finders
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.http import HttpResponse
from django.test import Client, RequestFactory, TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.views.defaults import server_error
from mysite.middleware import content_security_policy

from .models import Choice, Question

DAY = timedelta(days=1)
INLINE = re.compile(r"<style\b|<script(?![^>]*\ssrc=)|<[^>]*\s(style|on\w+)=", re.IGNORECASE)


def ask(text: str = "Tea or coffee?", since: timedelta = DAY, **fields) -> Question:
    """Make a question with two choices, published `since` ago."""
    fields.setdefault("published", timezone.now() - since)
    question = Question.objects.create(text=text, **fields)
    for choice in ("Tea", "Coffee"):
        question.choices.create(text=choice)
    return question


class PollsTestCase(TestCase):
    """A site without the questions that the migrations bring."""

    @classmethod
    def setUpTestData(cls) -> None:
        Question.objects.all().delete()


class DemoTests(TestCase):
    def test_a_new_site_shows_the_demo_questions(self):
        page = self.client.get("/")
        self.assertContains(page, "What makes a good afternoon?")
        self.assertContains(page, "Which season do you look forward to most?")

    def test_migrations_match_the_models(self):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)


class ModelTests(PollsTestCase):
    def test_open_and_published(self):
        now = timezone.now()
        is_open = ask("open")
        closed = ask("closed", since=2 * DAY, closes=now - DAY)
        future = ask("future", since=-DAY)
        Question.objects.create(text="nothing to choose", published=now - DAY)
        self.assertQuerySetEqual(Question.objects.open(), [is_open])
        self.assertQuerySetEqual(Question.objects.published(), [is_open, closed])
        self.assertTrue(is_open.is_open)
        self.assertFalse(closed.is_open)
        self.assertFalse(future.is_open)

    def test_total(self):
        question = ask()
        question.choices.update(votes=3)
        self.assertEqual(Question.objects.with_total().get().total, 6)
        question.choices.all().delete()
        self.assertEqual(Question.objects.with_total().get().total, 0)

    def test_closes_after_published(self):
        now = timezone.now()
        with self.assertRaisesMessage(ValidationError, "closes after it is published"):
            Question(text="?", published=now, closes=now - DAY).full_clean()
        with self.assertRaises(IntegrityError), transaction.atomic():
            ask(closes=now - 2 * DAY)

    def test_votes_at_the_same_moment_all_count(self):
        first = ask().choices.first()
        second = Choice.objects.get(pk=first.pk)
        first.vote()
        second.vote()
        first.refresh_from_db()
        self.assertEqual(first.votes, 2)

    def test_a_vote_is_one_statement(self):
        choice = ask().choices.first()
        with CaptureQueriesContext(connection) as queries:
            choice.vote()
        self.assertEqual(len(queries), 1)
        self.assertRegex(queries[0]["sql"], r'^UPDATE .*"votes" \+ 1')


class IndexTests(PollsTestCase):
    def test_shows_open_polls_only(self):
        ask("An open question?")
        ask("A later question?", since=-DAY)
        ask("A closed question?", since=2 * DAY, closes=timezone.now() - DAY)
        page = self.client.get("/")
        self.assertContains(page, "An open question?")
        self.assertNotContains(page, "A later question?")
        self.assertNotContains(page, "A closed question?")

    def test_a_number_that_is_too_large(self):
        self.assertEqual(self.client.get(f"/polls/{10**30}/").status_code, 404)

    def test_without_polls(self):
        self.assertContains(self.client.get("/"), "No poll is open")

    def test_pages(self):
        for number in range(1, 12):
            ask(f"Question no. {number}.", since=number * DAY)
        first = self.client.get("/")
        self.assertContains(first, "Page 1 of 2")
        self.assertContains(first, "Question no. 10.")
        self.assertNotContains(first, "Question no. 11.")
        second = self.client.get("/?page=2")
        self.assertContains(second, "Question no. 11.")
        self.assertContains(second, 'href="?page=1"')
        self.assertEqual(self.client.get("/?page=3").status_code, 404)

    def test_queries_do_not_grow_with_the_polls(self):
        for number in range(3):
            ask(f"Question no. {number}.")
        with self.assertNumQueries(2):
            self.client.get("/")


class VoteTests(PollsTestCase):
    def setUp(self) -> None:
        self.question = ask()
        self.url = reverse("polls:question", args=[self.question.pk])
        self.results = reverse("polls:results", args=[self.question.pk])
        self.tea, self.coffee = self.question.choices.all()

    def votes(self) -> list[int]:
        return list(self.question.choices.values_list("votes", flat=True))

    def test_a_vote_is_counted_and_confirmed(self):
        answer = self.client.post(self.url, {"choice": self.tea.pk}, follow=True)
        self.assertRedirects(answer, self.results)
        self.assertContains(answer, "Your vote for “Tea” is counted.")
        self.assertEqual(self.votes(), [1, 0])

    def test_no_choice(self):
        answer = self.client.post(self.url)
        self.assertContains(answer, "Please choose an answer.")
        self.assertEqual(self.votes(), [0, 0])

    def test_a_choice_of_another_question(self):
        other = ask("Now or later?").choices.first()
        for choice in (other.pk, 0, 10**30, "x"):
            answer = self.client.post(self.url, {"choice": choice})
            self.assertContains(answer, "Please choose one of the answers below.")
        self.assertEqual(self.votes(), [0, 0])
        self.assertFalse(Choice.objects.filter(votes__gt=0).exists())

    def test_the_ballot_shows_no_error_at_first(self):
        self.assertNotContains(self.client.get(self.url), "Please choose")

    def test_a_closed_poll_shows_its_results_and_takes_no_vote(self):
        Question.objects.update(closes=timezone.now() - DAY / 2)
        for answer in (
            self.client.get(self.url),
            self.client.post(self.url, {"choice": self.tea.pk}),
        ):
            self.assertRedirects(answer, self.results)
        self.assertContains(self.client.get(self.results), "closed")
        self.assertEqual(self.votes(), [0, 0])

    def test_an_unpublished_poll_is_hidden(self):
        Question.objects.update(published=timezone.now() + DAY)
        for answer in (
            self.client.get(self.url),
            self.client.post(self.url, {"choice": self.tea.pk}),
            self.client.get(self.results),
        ):
            self.assertEqual(answer.status_code, 404)
        self.assertEqual(self.votes(), [0, 0])

    def test_a_vote_without_a_csrf_token_is_refused(self):
        client = Client(enforce_csrf_checks=True)
        answer = client.post(self.url, {"choice": self.tea.pk})
        self.assertEqual(answer.status_code, 403)
        self.assertEqual(self.votes(), [0, 0])


class ResultsTests(PollsTestCase):
    def test_bars(self):
        question = ask()
        question.choices.filter(text="Coffee").update(votes=3)
        question.choices.filter(text="Tea").update(votes=1)
        page = self.client.get(reverse("polls:results", args=[question.pk]))
        bars = [(bar["choice"].text, bar["percent"], bar["leads"]) for bar in page.context["bars"]]
        self.assertEqual(bars, [("Coffee", 75, True), ("Tea", 25, False)])
        self.assertContains(page, 'class="fill" width="75%"')
        self.assertContains(page, "4 votes")

    def test_without_votes(self):
        page = self.client.get(reverse("polls:results", args=[ask().pk]))
        self.assertContains(page, "No votes yet")
        self.assertNotContains(page, 'class="fill"')


class AdminTests(PollsTestCase):
    def setUp(self) -> None:
        user = get_user_model().objects.create_superuser("editor")
        self.client.force_login(user)

    def test_pages_load(self):
        question = ask()
        for url in (
            reverse("admin:index"),
            reverse("admin:polls_question_changelist") + "?q=tea",
            reverse("admin:polls_question_add"),
            reverse("admin:polls_question_change", args=[question.pk]),
        ):
            page = self.client.get(url)
            self.assertEqual(page.status_code, 200, url)
            self.assertNotRegex(page.content.decode(), INLINE)

    def test_a_question_is_added_with_its_choices(self):
        answer = self.client.post(
            reverse("admin:polls_question_add"),
            {
                "text": "Mountains or sea?",
                "published_0": "2026-01-01",
                "published_1": "08:00",
                "choices-TOTAL_FORMS": 2,
                "choices-INITIAL_FORMS": 0,
                "choices-0-text": "Mountains",
                "choices-1-text": "Sea",
            },
        )
        self.assertRedirects(answer, reverse("admin:polls_question_changelist"))
        question = Question.objects.open().get()
        self.assertQuerySetEqual(question.choices.all(), ["Mountains", "Sea"], transform=str)


class PageTests(PollsTestCase):
    def pages(self) -> dict[str, str]:
        """The HTML of every page of the site, by its address."""
        question = ask("<b>Tea</b> & coffee?", closes=timezone.now() + DAY)
        question.choices.first().vote()
        url = reverse("polls:question", args=[question.pk])
        pages = {
            "/": self.client.get("/"),
            url: self.client.get(url),
            f"{url} without a choice": self.client.post(url),
            f"{url}results/": self.client.get(f"{url}results/"),
            "/nowhere/": self.client.get("/nowhere/"),
        }
        return {name: page.content.decode() for name, page in pages.items()}

    def test_pages_load_nothing_from_other_sites(self):
        for name, html in self.pages().items():
            with self.subTest(name):
                self.assertNotRegex(html, r"(?i)(https?:)?//\w")

    def test_pages_have_no_inline_code_or_styles(self):
        for name, html in self.pages().items():
            with self.subTest(name):
                self.assertNotRegex(html, INLINE)

    def test_every_page_has_a_content_security_policy(self):
        for url in ("/", "/nowhere/", reverse("admin:login")):
            with self.subTest(url):
                policy = self.client.get(url).headers["Content-Security-Policy"]
                self.assertEqual(
                    dict(directive.strip().split(" ", 1) for directive in policy.split(";")),
                    {
                        "default-src": "'self'",
                        "base-uri": "'none'",
                        "form-action": "'self'",
                        "frame-ancestors": "'none'",
                        "object-src": "'none'",
                    },
                )

    def test_a_page_may_set_another_content_security_policy(self):
        page = HttpResponse(headers={"Content-Security-Policy": "default-src 'none'"})
        answer = content_security_policy(lambda _: page)(RequestFactory().get("/"))
        self.assertEqual(answer.headers["Content-Security-Policy"], "default-src 'none'")

    @override_settings(DEBUG=True)
    def test_debug_pages_have_no_content_security_policy(self):
        self.assertNotIn("Content-Security-Policy", self.client.get("/nowhere/").headers)
        self.assertIn("Content-Security-Policy", self.client.get("/").headers)

    def test_text_is_escaped(self):
        for name, html in self.pages().items():
            with self.subTest(name):
                self.assertNotIn("<b>", html)

    def test_static_files_exist(self):
        for name, html in self.pages().items():
            for path in re.findall(r'"/static/([^"]+)"', html):
                with self.subTest(name, path=path):
                    self.assertIsNotNone(finders.find(path))

    def test_not_found(self):
        self.assertContains(self.client.get("/nowhere/"), "Not found", status_code=404)

    def test_server_error(self):
        answer = server_error(RequestFactory().get("/"))
        self.assertContains(answer, "Something went wrong", status_code=500)
