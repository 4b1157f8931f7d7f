// Lists the licences of what is linked into the program.
module github.com/routewarden/routewarden/hack/release/licenses

go 1.26.0

require github.com/google/licensecheck v0.3.1
