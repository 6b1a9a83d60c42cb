"""Which sources a browser may use for a page: the site itself, and nothing written into the HTML."""

from django.conf import settings

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"


def content_security_policy(get_response):
    """Send a Content-Security-Policy, as Django itself can from version 6.0 on."""

    def middleware(request):
        response = get_response(request)
        if not (settings.DEBUG and response.status_code >= 400):  # Django's pages for developers style themselves
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware
