"""The site's addresses: the polls at the root, the administration below admin/."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = "Polls administration"
admin.site.site_title = "Polls"
admin.site.index_title = "Questions and answers"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("polls.urls")),
]
