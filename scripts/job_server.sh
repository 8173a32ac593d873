#!/usr/bin/env bash
# Starts Beam's job server for an engine on 127.0.0.1, in the foreground and as this very process: ending it ends the server.
#
#   scripts/job_server.sh flink|spark [--port 8099] [--master '[local]'] [--jar FILE | --classpath 'DIR/*']
#
# --jar (or FLINK_JOB_SERVER_JAR, SPARK_JOB_SERVER_JAR) is Beam's job-server jar; --classpath (or FLINK_JOB_SERVER_CLASSPATH,
# SPARK_JOB_SERVER_CLASSPATH) its parts, where a repository has only those. With neither, Maven fetches the jar of the Beam
# version in .venv. FLINK_VERSION is 1.19 by default; Spark is 3. Without Java, Maven or the jar it ends with 3 and says
# which.
set -euo pipefail
cd "$(dirname "$0")/.."

engine=${1:-}
case $engine in
  flink)
    master='[local]' artifact=beam-runners-flink-${FLINK_VERSION:-1.19}-job-server
    jar=${FLINK_JOB_SERVER_JAR:-} classpath=${FLINK_JOB_SERVER_CLASSPATH:-}
    driver=org.apache.beam.runners.flink.FlinkJobServerDriver master_flag=--flink-master java_flags=()
    ;;
  spark)
    master='local[*]' artifact=beam-runners-spark-3-job-server
    jar=${SPARK_JOB_SERVER_JAR:-} classpath=${SPARK_JOB_SERVER_CLASSPATH:-}
    driver=org.apache.beam.runners.spark.SparkJobServerDriver master_flag=--spark-master-url java_flags=()
    # Spark reaches into Java's own classes, which Java 17 allows to who is named.
    for package in lang lang.invoke io net nio util util.concurrent util.concurrent.atomic; do
      java_flags+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
    done
    for package in nio.ch nio.cs security.action util.calendar; do
      java_flags+=("--add-opens=java.base/sun.$package=ALL-UNNAMED")
    done
    ;;
  *) echo "job_server: name the engine: flink or spark" >&2; exit 2 ;;
esac
shift
port=8099
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=$2 ;;
    --master) master=$2 ;;
    --jar) jar=$2 ;;
    --classpath) classpath=$2 ;;
    *) echo "job_server: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
absent() { echo "job_server: $1" >&2; exit 3; }

command -v java >/dev/null || absent "Java is not installed (17 does)"
if [ -z "$jar$classpath" ]; then
  command -v mvn >/dev/null || absent "no job server is named (--jar, --classpath), and Maven is not installed to fetch one"
  beam=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("apache-beam"))')
  echo "job_server: fetching org.apache.beam:$artifact:$beam" >&2
  jar_dir=.runtime/beam
  [ -f "$jar_dir/$artifact-$beam.jar" ] ||
    mvn --batch-mode --quiet dependency:copy "-Dartifact=org.apache.beam:$artifact:$beam" "-DoutputDirectory=$PWD/$jar_dir" >&2 ||
    absent "Maven's repository has no org.apache.beam:$artifact:$beam; name one with --jar, or its parts with --classpath"
  jar=$jar_dir/$artifact-$beam.jar
fi
[ -z "$jar" ] || [ -f "$jar" ] || absent "there is no file $jar"

# The ports of files and of foreign transforms are any that are free.
echo "job_server: starting $engine at 127.0.0.1:$port, master $master" >&2
exec java "${java_flags[@]}" -cp "${jar:-$classpath}" "$driver" --job-host=127.0.0.1 "--job-port=$port" --artifact-port=0 \
  --expansion-port=0 "$master_flag=$master"
