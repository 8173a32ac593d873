#!/usr/bin/env bash
# Starts Beam's job server for Flink on 127.0.0.1, in the foreground and as this very process: ending it ends the server.
#
#   scripts/flink_job_server.sh [--port 8099] [--master '[local]'] [--jar FILE | --classpath 'DIR/*']
#
# --jar (or FLINK_JOB_SERVER_JAR) is Beam's job-server jar; --classpath (or FLINK_JOB_SERVER_CLASSPATH) its parts, where a
# repository has only those. With neither, Maven fetches the jar of the Beam version in .venv. FLINK_VERSION is 1.19 if not
# said. Without Java, Maven or the jar it ends with 3 and says which.
set -euo pipefail
cd "$(dirname "$0")/.."

port=8099 master='[local]' jar=${FLINK_JOB_SERVER_JAR:-} classpath=${FLINK_JOB_SERVER_CLASSPATH:-}
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=$2 ;;
    --master) master=$2 ;;
    --jar) jar=$2 ;;
    --classpath) classpath=$2 ;;
    *) echo "flink_job_server: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
absent() { echo "flink_job_server: $1" >&2; exit 3; }

command -v java >/dev/null || absent "Java is not installed (17 does)"
if [ -z "$jar$classpath" ]; then
  command -v mvn >/dev/null || absent "no job server is named (--jar, --classpath), and Maven is not installed to fetch one"
  beam=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("apache-beam"))')
  artifact=beam-runners-flink-${FLINK_VERSION:-1.19}-job-server
  echo "flink_job_server: fetching org.apache.beam:$artifact:$beam" >&2
  jar_dir=.runtime/flink
  [ -f "$jar_dir/$artifact-$beam.jar" ] ||
    mvn --batch-mode --quiet dependency:copy "-Dartifact=org.apache.beam:$artifact:$beam" "-DoutputDirectory=$PWD/$jar_dir" >&2 ||
    absent "Maven's repository has no org.apache.beam:$artifact:$beam; name one with --jar, or its parts with --classpath"
  jar=$jar_dir/$artifact-$beam.jar
fi
[ -z "$jar" ] || [ -f "$jar" ] || absent "there is no file $jar"

# The ports of files and of foreign transforms are any that are free.
echo "flink_job_server: starting at 127.0.0.1:$port, master $master" >&2
exec java -cp "${jar:-$classpath}" org.apache.beam.runners.flink.FlinkJobServerDriver --job-host=127.0.0.1 \
  "--job-port=$port" --artifact-port=0 --expansion-port=0 "--flink-master=$master"
