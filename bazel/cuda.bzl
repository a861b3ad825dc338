"""cuda_objects: CUDA files, each compiled for one architecture."""

load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load("//:sources.bzl", "SOURCES")

# What costs a kernel its speed ends the build: local memory, of which ptxas warns, and matrix instructions that wait for
# each other, which is but information to it.
_COMPILE = """
said=$("$@" 2>&1) && status=0 || status=$?
[ -z "$said" ] || echo "$said" >&2
if grep -qE 'ptxas warning|are serialized' <<<"$said"; then
  echo "no kernel may spill, use local memory or have its WGMMA serialised" >&2
  exit 1
fi
exit $status
"""

def _cuda_objects_impl(ctx):
    contexts = [dep[CcInfo].compilation_context for dep in ctx.attr.deps]
    includes = [
        depset(transitive = [getattr(context, kind) for context in contexts])
        for kind in ("includes", "quote_includes", "system_includes")
    ]
    inputs = depset(transitive = [context.headers for context in contexts] + [ctx.attr._compiler[DefaultInfo].files])

    objects = []
    for source in ctx.files.srcs:
        object = ctx.actions.declare_file("_objects/%s/%s.o" % (ctx.label.name, source.short_path))
        arguments = ctx.actions.args()
        arguments.add(ctx.file._nvcc)
        arguments.add_all(SOURCES["nvcc_flags"])
        code = "compute_" if ctx.attr.emulated else "sm_"
        arguments.add("-gencode=arch=compute_%s,code=%s%s" % (ctx.attr.arch, code, ctx.attr.arch))
        if ctx.attr.emulated:
            arguments.add("-no-compress")
        arguments.add("-Xcompiler=-fPIC,-fvisibility=hidden")
        arguments.add("-I.")  # sources name headers by their path from the root
        for folders in includes:
            arguments.add_all(folders, before_each = "-isystem")
        arguments.add("-c", source)
        arguments.add("-o", object)
        ctx.actions.run_shell(
            command = _COMPILE,
            arguments = [arguments],
            inputs = depset([source], transitive = [inputs]),
            tools = [ctx.file._nvcc],
            outputs = [object],
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s for sm_%s" % (source.short_path, ctx.attr.arch),
            use_default_shell_env = True,
        )
        objects.append(object)
    return [DefaultInfo(files = depset(objects))]

cuda_objects = rule(
    implementation = _cuda_objects_impl,
    doc = "One object for each CUDA file, for the srcs of a cc_binary.",
    attrs = {
        "arch": attr.string(mandatory = True, doc = "As in nvcc's sm_90a, without the letters before the number."),
        "deps": attr.label_list(providers = [CcInfo], doc = "Headers."),
        "emulated": attr.bool(doc = "Keep PTX in place of machine code, as the emulator reads it."),
        "srcs": attr.label_list(allow_files = [".cu"]),
        "_compiler": attr.label(default = "@cuda_toolkit//:compiler"),
        "_nvcc": attr.label(default = "@cuda_toolkit//:toolkit/bin/nvcc", allow_single_file = True),
    },
)
