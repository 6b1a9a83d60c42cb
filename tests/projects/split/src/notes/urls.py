from django.urls import path

from . import views

urlpatterns = [
    path("", views.NotesView.as_view(), name="notes"),
    path("export.json", views.export, name="export"),
]
