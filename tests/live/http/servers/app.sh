#!/bin/sh
# The exchanges of Apache that are no files: SCRIPT_NAME is the path.
case "$SCRIPT_NAME" in
/none) printf 'Status: 204 No Content\r\n\r\n' ;;
/error) printf 'Status: 500 Error\r\n\r\nerror\n' ;;
/empty) printf 'Content-Length: 0\r\n\r\n' ;;
/upload) printf 'Content-Type: text/plain\r\n\r\n%s\n' "$(wc -c)" ;;
/slow)
    sleep 0.3
    printf 'Content-Type: text/plain\r\n\r\nlate\n'
    ;;
*)
    printf 'Content-Type: text/plain\r\n\r\n'
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        printf 'HTTP/1.1 500 Not a head\r\n\r\n'
        sleep 0.005
    done
    ;;
esac
