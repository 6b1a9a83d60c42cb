"""The polls' addresses."""

from django.urls import path

from . import views

app_name = "polls"
urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("polls/<int:pk>/", views.question, name="question"),
    path("polls/<int:pk>/results/", views.ResultsView.as_view(), name="results"),
]
