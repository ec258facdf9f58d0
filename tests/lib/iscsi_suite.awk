# What came of each test in the output of iscsi-test-cu --verbose:
# "NAME <tab> passed|failed|skipped <tab> why". The tool counts a test that skipped itself, or a
# part of itself, as passed; here it is a skipped one. A test that did not end is not told.
function tell() {
  if (test == "") return
  print suite "." test "\t" (failed ? "failed" : why != "" ? "skipped" : "passed") "\t" (failed ? wrong : why)
  test = ""
}
/^Suite: / { tell(); suite = $2 }
/^  Test: / { tell(); test = $2; failed = 0; why = wrong = "" }
/^Run Summary/ { tell() }
test != "" && /\[SKIPPED\]/ && why == "" { why = $0; sub(/.*\[SKIPPED\] */, "", why) }
test != "" && /\[FAILED\]/ && wrong == "" { wrong = $0; sub(/.*\[FAILED\] */, "", wrong) }
test != "" && /^FAILED|\.\.\.FAILED/ { failed = 1 }
