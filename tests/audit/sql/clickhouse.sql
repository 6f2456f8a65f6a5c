-- Ibis 12

-- truth and decision of job
SELECT
  "t1"."attribute0" AS "attribute0",
  "t1"."attribute1" AS "attribute1",
  "t1"."truth0" AS "truth0",
  "t1"."decision0" AS "decision0",
  COUNT(*) AS "n"
FROM (
  SELECT
    "t0"."sex" AS "attribute0",
    CASE
      WHEN isNotNull("t0"."age")
      THEN 0 + CAST("t0"."age" >= 30.0 AS Nullable(Int8)) + CAST("t0"."age" >= 60.0 AS Nullable(Int8))
      ELSE NULL
    END AS "attribute1",
    CAST(isNotNull("t0"."job.true") AS Nullable(Int8)) AS "o0",
    CASE
      WHEN isNotNull("t0"."job.true")
      THEN CAST("t0"."job.true" = 'clerk' AS Nullable(Int8))
      ELSE 0
    END AS "a0",
    CAST("t0"."job" = 'clerk' AS Nullable(Int8)) AS "p0",
    CAST(isNotNull("t0"."job.true") AS Nullable(Int8)) AS "o1",
    CASE
      WHEN isNotNull("t0"."job.true")
      THEN CAST("t0"."job.true" = 'nurse' AS Nullable(Int8))
      ELSE 0
    END AS "a1",
    CAST("t0"."job" = 'nurse' AS Nullable(Int8)) AS "p1",
    CAST(isNotNull("t0"."sick.true") AS Nullable(Int8)) AS "o2",
    CAST(COALESCE("t0"."sick.true" = 1, FALSE) AS Nullable(Int8)) AS "a2",
    CAST("t0"."sick" > 0.5 AS Nullable(Int8)) AS "p2",
    isNotNull("t0"."sick.true")
    AND NOT (
      COALESCE("t0"."sick.true" = 1, FALSE)
    )
    AND NOT (
      COALESCE("t0"."sick.true" = 0, FALSE)
    ) AS "x2",
    "t0"."sick.true" AS "y2",
    "t0"."sick" AS "q2",
    CAST(isNotNull("t0"."pay.true") AS Nullable(Int8)) AS "o3",
    CASE
      WHEN isNotNull("t0"."pay.true")
      THEN (
        "t0"."pay.true" - 30.0
      ) * 0.125
      ELSE 0.0
    END AS "a3",
    (
      "t0"."pay" - 30.0
    ) * 0.125 AS "p3",
    (
      (
        reinterpretAsInt64(sipHash64("t0"."household")) % 256
      ) + 256
    ) % 256 AS "bucket",
    "t0"."job.true" AS "truth0",
    "t0"."job" AS "decision0"
  FROM "predictions" AS "t0"
) AS "t1"
GROUP BY
  "t1"."attribute0",
  "t1"."attribute1",
  "t1"."truth0",
  "t1"."decision0"

-- sums
SELECT
  "t1"."attribute0" AS "attribute0",
  "t1"."attribute1" AS "attribute1",
  "t1"."bucket" AS "bucket",
  COUNT(*) AS "n",
  SUM("t1"."o2") AS "s0",
  SUM("t1"."a2") AS "s1",
  SUM("t1"."p2") AS "s2",
  SUM("t1"."o2" * "t1"."p2") AS "s3",
  SUM("t1"."a2" * "t1"."p2") AS "s4",
  SUM("t1"."o3") AS "s5",
  SUM("t1"."p3" * "t1"."o3") AS "s6",
  SUM("t1"."a3") AS "s7",
  SUM("t1"."p3" * "t1"."o3" * "t1"."p3") AS "s8",
  SUM("t1"."a3" * "t1"."a3") AS "s9",
  SUM("t1"."p3" * "t1"."o3" * "t1"."a3") AS "s10",
  SUM("t1"."o3" * ABS("t1"."p3" - "t1"."a3")) AS "s11",
  SUM("t1"."a0" * "t1"."p0") AS "s12",
  SUM("t1"."a1" * "t1"."p1") AS "s13",
  SUM("t1"."a0") AS "s14",
  SUM("t1"."a1") AS "s15",
  SUM((
    "t1"."o2" - "t1"."a2"
  ) * (
    1 - "t1"."p2"
  )) AS "s16",
  SUM("t1"."o2" - "t1"."a2") AS "s17",
  SUM("t1"."o2" * (
    "t1"."q2" - "t1"."a2"
  )) AS "s18",
  SUM("t1"."o3" * (
    "t1"."p3" - "t1"."a3"
  )) AS "s19",
  SUM("t1"."o3" * (
    "t1"."p3" - "t1"."a3"
  ) * (
    "t1"."p3" - "t1"."a3"
  )) AS "s20",
  SUM("t1"."o2" * (
    "t1"."q2" - "t1"."a2"
  ) * (
    "t1"."q2" - "t1"."a2"
  )) AS "s21",
  SUM(
    "t1"."o3" * (
      "t1"."p3" - "t1"."a3"
    ) * (
      "t1"."p3" - "t1"."a3"
    ) * (
      "t1"."p3" - "t1"."a3"
    ) * (
      "t1"."p3" - "t1"."a3"
    )
  ) AS "s22",
  COUNT("t1"."p2") AS "s23",
  SUM("t1"."y2" * "t1"."y2") AS "s24",
  SUM(
    CAST(isNotNull("t1"."q2") AND (
      "t1"."q2" >= 0
    ) AND (
      "t1"."q2" <= 1
    ) AS Nullable(Int8))
  ) AS "s25",
  COUNT("t1"."p3") AS "s26"
FROM (
  SELECT
    "t0"."sex" AS "attribute0",
    CASE
      WHEN isNotNull("t0"."age")
      THEN 0 + CAST("t0"."age" >= 30.0 AS Nullable(Int8)) + CAST("t0"."age" >= 60.0 AS Nullable(Int8))
      ELSE NULL
    END AS "attribute1",
    CAST(isNotNull("t0"."job.true") AS Nullable(Int8)) AS "o0",
    CASE
      WHEN isNotNull("t0"."job.true")
      THEN CAST("t0"."job.true" = 'clerk' AS Nullable(Int8))
      ELSE 0
    END AS "a0",
    CAST("t0"."job" = 'clerk' AS Nullable(Int8)) AS "p0",
    CAST(isNotNull("t0"."job.true") AS Nullable(Int8)) AS "o1",
    CASE
      WHEN isNotNull("t0"."job.true")
      THEN CAST("t0"."job.true" = 'nurse' AS Nullable(Int8))
      ELSE 0
    END AS "a1",
    CAST("t0"."job" = 'nurse' AS Nullable(Int8)) AS "p1",
    CAST(isNotNull("t0"."sick.true") AS Nullable(Int8)) AS "o2",
    CAST(COALESCE("t0"."sick.true" = 1, FALSE) AS Nullable(Int8)) AS "a2",
    CAST("t0"."sick" > 0.5 AS Nullable(Int8)) AS "p2",
    isNotNull("t0"."sick.true")
    AND NOT (
      COALESCE("t0"."sick.true" = 1, FALSE)
    )
    AND NOT (
      COALESCE("t0"."sick.true" = 0, FALSE)
    ) AS "x2",
    "t0"."sick.true" AS "y2",
    "t0"."sick" AS "q2",
    CAST(isNotNull("t0"."pay.true") AS Nullable(Int8)) AS "o3",
    CASE
      WHEN isNotNull("t0"."pay.true")
      THEN (
        "t0"."pay.true" - 30.0
      ) * 0.125
      ELSE 0.0
    END AS "a3",
    (
      "t0"."pay" - 30.0
    ) * 0.125 AS "p3",
    (
      (
        reinterpretAsInt64(sipHash64("t0"."household")) % 256
      ) + 256
    ) % 256 AS "bucket",
    "t0"."job.true" AS "truth0",
    "t0"."job" AS "decision0"
  FROM "predictions" AS "t0"
) AS "t1"
GROUP BY
  "t1"."attribute0",
  "t1"."attribute1",
  "t1"."bucket"

-- probabilities of output 2
SELECT
  "t1"."attribute0" AS "attribute0",
  "t1"."attribute1" AS "attribute1",
  "t1"."bin" AS "bin",
  COUNT(*) AS "n",
  SUM("t1"."o") AS "seen",
  SUM("t1"."o" * "t1"."q") AS "probability",
  SUM("t1"."a") AS "actual"
FROM (
  SELECT
    "t0"."sex" AS "attribute0",
    CASE
      WHEN isNotNull("t0"."age")
      THEN 0 + CAST("t0"."age" >= 30.0 AS Nullable(Int8)) + CAST("t0"."age" >= 60.0 AS Nullable(Int8))
      ELSE NULL
    END AS "attribute1",
    CAST(isNotNull("t0"."sick.true") AS Nullable(Int8)) AS "o",
    CAST(COALESCE("t0"."sick.true" = 1, FALSE) AS Nullable(Int8)) AS "a",
    "t0"."sick" AS "q",
    CASE
      WHEN CAST(FLOOR("t0"."sick" * 100) AS Nullable(Int64)) > 99
      THEN 99
      ELSE CAST(FLOOR("t0"."sick" * 100) AS Nullable(Int64))
    END AS "bin"
  FROM "predictions" AS "t0"
) AS "t1"
GROUP BY
  "t1"."attribute0",
  "t1"."attribute1",
  "t1"."bin"
