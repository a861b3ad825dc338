"""python_wheel: a wheel from the package's files and extensions that are already built."""

load("@local_python//:defs.bzl", "PYTHON", "VERSION", "WHEEL_TAG")

def _python_wheel_impl(ctx):
    name = "jax_flash_mla-%s-%s.whl" % (VERSION, WHEEL_TAG)
    folder = ctx.attr.folder + "/" if ctx.attr.folder else ""
    wheel = ctx.actions.declare_file(folder + name)
    arguments = ctx.actions.args()
    arguments.add(ctx.file._tool)
    arguments.add("--tag", WHEEL_TAG)
    arguments.add_all(ctx.files.extensions, before_each = "--extension")
    arguments.add("--wheel", wheel)
    arguments.add_all(ctx.files.srcs)
    packaging = ctx.files._packaging
    ctx.actions.run(
        executable = PYTHON,
        arguments = [arguments],
        env = {"PYTHONPATH": packaging[0].path.partition("/site/")[0] + "/site"},
        inputs = ctx.files.srcs + packaging + ctx.files.extensions + [ctx.file._tool],
        outputs = [wheel],
        mnemonic = "PythonWheel",
    )
    return [DefaultInfo(files = depset([wheel]))]

python_wheel = rule(
    implementation = _python_wheel_impl,
    attrs = {
        "extensions": attr.label_list(allow_files = True, mandatory = True),
        "folder": attr.string(doc = "Where under the output folder the wheel lies."),
        "srcs": attr.label_list(allow_files = True, doc = "Sources, at their paths from the root; no generated file."),
        "_packaging": attr.label(default = "@pypi//:packaging"),
        "_tool": attr.label(default = "//bazel:make_wheel.py", allow_single_file = True),
    },
)
