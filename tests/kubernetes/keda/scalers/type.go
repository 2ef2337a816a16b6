// Package scalers is KEDA's of that name, of which `cargo xtask test` copies two files here, and what those need of the others.
package scalers

const externalMetricType = "External"
