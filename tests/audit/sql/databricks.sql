-- Ibis 12

-- truth and decision of job
SELECT
  `t1`.`attribute0`,
  `t1`.`attribute1`,
  `t1`.`truth0`,
  `t1`.`decision0`,
  COUNT(*) AS `n`
FROM (
  SELECT
    `t0`.`sex` AS `attribute0`,
    CASE
      WHEN `t0`.`age` IS NOT NULL
      THEN 0 + CAST(`t0`.`age` >= 30.0 AS TINYINT) + CAST(`t0`.`age` >= 60.0 AS TINYINT)
      ELSE NULL
    END AS `attribute1`,
    CAST(`t0`.`job.true` IS NOT NULL AS TINYINT) AS `o0`,
    IF(`t0`.`job.true` IS NOT NULL, CAST(`t0`.`job.true` = 'clerk' AS TINYINT), 0) AS `a0`,
    CAST(`t0`.`job` = 'clerk' AS TINYINT) AS `p0`,
    CAST(`t0`.`job.true` IS NOT NULL AS TINYINT) AS `o1`,
    IF(`t0`.`job.true` IS NOT NULL, CAST(`t0`.`job.true` = 'nurse' AS TINYINT), 0) AS `a1`,
    CAST(`t0`.`job` = 'nurse' AS TINYINT) AS `p1`,
    CAST(`t0`.`sick.true` IS NOT NULL AS TINYINT) AS `o2`,
    CAST(COALESCE(`t0`.`sick.true` = 1, FALSE) AS TINYINT) AS `a2`,
    CAST(`t0`.`sick` > 0.5 AS TINYINT) AS `p2`,
    (
      `t0`.`sick.true` IS NOT NULL
    )
    AND NOT (
      COALESCE(`t0`.`sick.true` = 1, FALSE)
    )
    AND NOT (
      COALESCE(`t0`.`sick.true` = 0, FALSE)
    ) AS `x2`,
    `t0`.`sick.true` AS `y2`,
    `t0`.`sick` AS `q2`,
    CAST(`t0`.`pay.true` IS NOT NULL AND NOT ISNAN(`t0`.`pay.true`) AS TINYINT) AS `o3`,
    IF(
      `t0`.`pay.true` IS NOT NULL AND NOT ISNAN(`t0`.`pay.true`),
      (
        `t0`.`pay.true` - 30.0
      ) * 0.125,
      0.0
    ) AS `a3`,
    (
      `t0`.`pay` - 30.0
    ) * 0.125 AS `p3`,
    (
      (
        HASH(`t0`.`household`) % 256
      ) + 256
    ) % 256 AS `bucket`,
    `t0`.`job.true` AS `truth0`,
    `t0`.`job` AS `decision0`
  FROM `predictions` AS `t0`
) AS `t1`
GROUP BY
  1,
  2,
  3,
  4

-- sums
SELECT
  `t1`.`attribute0`,
  `t1`.`attribute1`,
  `t1`.`bucket`,
  COUNT(*) AS `n`,
  SUM(`t1`.`o2`) AS `s0`,
  SUM(`t1`.`a2`) AS `s1`,
  SUM(`t1`.`p2`) AS `s2`,
  SUM(`t1`.`o2` * `t1`.`p2`) AS `s3`,
  SUM(`t1`.`a2` * `t1`.`p2`) AS `s4`,
  SUM(`t1`.`o3`) AS `s5`,
  SUM(`t1`.`p3` * `t1`.`o3`) AS `s6`,
  SUM(`t1`.`a3`) AS `s7`,
  SUM(`t1`.`p3` * `t1`.`o3` * `t1`.`p3`) AS `s8`,
  SUM(`t1`.`a3` * `t1`.`a3`) AS `s9`,
  SUM(`t1`.`p3` * `t1`.`o3` * `t1`.`a3`) AS `s10`,
  SUM(`t1`.`o3` * ABS(`t1`.`p3` - `t1`.`a3`)) AS `s11`,
  SUM(`t1`.`a0` * `t1`.`p0`) AS `s12`,
  SUM(`t1`.`a1` * `t1`.`p1`) AS `s13`,
  SUM(`t1`.`a0`) AS `s14`,
  SUM(`t1`.`a1`) AS `s15`,
  SUM((
    `t1`.`o2` - `t1`.`a2`
  ) * (
    1 - `t1`.`p2`
  )) AS `s16`,
  SUM(`t1`.`o2` - `t1`.`a2`) AS `s17`,
  SUM(`t1`.`o2` * (
    `t1`.`q2` - `t1`.`a2`
  )) AS `s18`,
  SUM(`t1`.`o3` * (
    `t1`.`p3` - `t1`.`a3`
  )) AS `s19`,
  SUM(`t1`.`o3` * (
    `t1`.`p3` - `t1`.`a3`
  ) * (
    `t1`.`p3` - `t1`.`a3`
  )) AS `s20`,
  SUM(`t1`.`o2` * (
    `t1`.`q2` - `t1`.`a2`
  ) * (
    `t1`.`q2` - `t1`.`a2`
  )) AS `s21`,
  SUM(
    `t1`.`o3` * (
      `t1`.`p3` - `t1`.`a3`
    ) * (
      `t1`.`p3` - `t1`.`a3`
    ) * (
      `t1`.`p3` - `t1`.`a3`
    ) * (
      `t1`.`p3` - `t1`.`a3`
    )
  ) AS `s22`,
  COUNT(`t1`.`p2`) AS `s23`,
  SUM(`t1`.`y2` * `t1`.`y2`) AS `s24`,
  SUM(
    CAST(`t1`.`q2` IS NOT NULL
    AND NOT ISNAN(`t1`.`q2`)
    AND (
      `t1`.`q2` >= 0
    )
    AND (
      `t1`.`q2` <= 1
    ) AS TINYINT)
  ) AS `s25`,
  COUNT(`t1`.`p3`) AS `s26`
FROM (
  SELECT
    `t0`.`sex` AS `attribute0`,
    CASE
      WHEN `t0`.`age` IS NOT NULL
      THEN 0 + CAST(`t0`.`age` >= 30.0 AS TINYINT) + CAST(`t0`.`age` >= 60.0 AS TINYINT)
      ELSE NULL
    END AS `attribute1`,
    CAST(`t0`.`job.true` IS NOT NULL AS TINYINT) AS `o0`,
    IF(`t0`.`job.true` IS NOT NULL, CAST(`t0`.`job.true` = 'clerk' AS TINYINT), 0) AS `a0`,
    CAST(`t0`.`job` = 'clerk' AS TINYINT) AS `p0`,
    CAST(`t0`.`job.true` IS NOT NULL AS TINYINT) AS `o1`,
    IF(`t0`.`job.true` IS NOT NULL, CAST(`t0`.`job.true` = 'nurse' AS TINYINT), 0) AS `a1`,
    CAST(`t0`.`job` = 'nurse' AS TINYINT) AS `p1`,
    CAST(`t0`.`sick.true` IS NOT NULL AS TINYINT) AS `o2`,
    CAST(COALESCE(`t0`.`sick.true` = 1, FALSE) AS TINYINT) AS `a2`,
    CAST(`t0`.`sick` > 0.5 AS TINYINT) AS `p2`,
    (
      `t0`.`sick.true` IS NOT NULL
    )
    AND NOT (
      COALESCE(`t0`.`sick.true` = 1, FALSE)
    )
    AND NOT (
      COALESCE(`t0`.`sick.true` = 0, FALSE)
    ) AS `x2`,
    `t0`.`sick.true` AS `y2`,
    `t0`.`sick` AS `q2`,
    CAST(`t0`.`pay.true` IS NOT NULL AND NOT ISNAN(`t0`.`pay.true`) AS TINYINT) AS `o3`,
    IF(
      `t0`.`pay.true` IS NOT NULL AND NOT ISNAN(`t0`.`pay.true`),
      (
        `t0`.`pay.true` - 30.0
      ) * 0.125,
      0.0
    ) AS `a3`,
    (
      `t0`.`pay` - 30.0
    ) * 0.125 AS `p3`,
    (
      (
        HASH(`t0`.`household`) % 256
      ) + 256
    ) % 256 AS `bucket`,
    `t0`.`job.true` AS `truth0`,
    `t0`.`job` AS `decision0`
  FROM `predictions` AS `t0`
) AS `t1`
GROUP BY
  1,
  2,
  3

-- probabilities of output 2
SELECT
  `t1`.`attribute0`,
  `t1`.`attribute1`,
  `t1`.`bin`,
  COUNT(*) AS `n`,
  SUM(`t1`.`o`) AS `seen`,
  SUM(`t1`.`o` * `t1`.`q`) AS `probability`,
  SUM(`t1`.`a`) AS `actual`
FROM (
  SELECT
    `t0`.`sex` AS `attribute0`,
    CASE
      WHEN `t0`.`age` IS NOT NULL
      THEN 0 + CAST(`t0`.`age` >= 30.0 AS TINYINT) + CAST(`t0`.`age` >= 60.0 AS TINYINT)
      ELSE NULL
    END AS `attribute1`,
    CAST(`t0`.`sick.true` IS NOT NULL AS TINYINT) AS `o`,
    CAST(COALESCE(`t0`.`sick.true` = 1, FALSE) AS TINYINT) AS `a`,
    `t0`.`sick` AS `q`,
    IF(
      CAST(FLOOR(`t0`.`sick` * 100) AS BIGINT) > 99,
      99,
      CAST(FLOOR(`t0`.`sick` * 100) AS BIGINT)
    ) AS `bin`
  FROM `predictions` AS `t0`
) AS `t1`
GROUP BY
  1,
  2,
  3
