from django.urls import path

from entries import views

urlpatterns = [
    path("", views.newest),
    path("write", views.write),
    path("upload", views.upload),
    path("visit", views.visit),
]
