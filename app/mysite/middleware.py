"""Restrict the sources of a page to the site itself, without inline code."""

from django.conf import settings

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"


def content_security_policy(get_response):
    """Send a Content-Security-Policy; from version 6.0 on Django can do that itself."""

    def middleware(request):
        response = get_response(request)
        if not (settings.DEBUG and response.status_code >= 400):  # Django's debug pages have inline styles
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware
