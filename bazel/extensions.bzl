"""The repositories of repositories.bzl for MODULE.bazel."""

load("//bazel:repositories.bzl", "repositories")

def _local_impl(_module_ctx):
    repositories()

local = module_extension(implementation = _local_impl)
